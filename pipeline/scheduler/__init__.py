"""Where tasks run: the one package that knows Dask.

``pool`` is the way in, ``window`` a run of tasks, ``worker`` what happens in the processes; ``local`` starts these on
this machine and ``remote`` finds those of a cluster; ``client`` asks them, and says what their errors mean.
"""

from .local import KEEP_MEMORY, SMALLEST_MEMORY
from .pool import Pool, open_pool
from .window import WINDOW, Patience

__all__ = ["KEEP_MEMORY", "SMALLEST_MEMORY", "WINDOW", "Patience", "Pool", "open_pool"]
