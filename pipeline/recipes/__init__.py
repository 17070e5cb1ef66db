"""Recipes: which two images meet, for which categories, with which δ, and in which order (paper, section 3.1).

Everything is planned at once, from one seed, in vectorised numpy; pixels play no part. ``columns`` is what comes out,
``planning`` has the strategies, ``pairings`` and ``order`` say which meetings are asked for and in which order,
``partners`` draws who fills them.
"""

from .columns import Recipes
from .planning import MOST_RECIPES, plan_recipes

__all__ = ["MOST_RECIPES", "Recipes", "plan_recipes"]
