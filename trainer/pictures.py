"""A figure per image: what is there, what every head says, and how sure it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..manifests.base import unwritable
from ..manifests.labels import LabelSet
from ..manifests.reader import Sample
from .evaluate import HeadName, Prediction

HEADS: tuple[HeadName, ...] = ("dominant", "binding", "phantom")
SYMBOLS: dict[HeadName, str] = {"dominant": "$S_t$", "binding": "$S_{fb}$", "phantom": "$S_p$"}


def save_figure(sample: Sample, prediction: Prediction, labels: LabelSet, title: str, path: Path) -> None:
    """Write the figure of one image as PNG.

    Upper row: the image, then each head's prediction in label colours. Lower row: the true label map, then each head's
    confidence, the probability of its own answer from 0 to 1, in jet. On a blend the true label maps stand in a column
    of their own. A legend names all classes that appear. Raises :class:`~fbind.manifests.errors.ResourceError` when the
    place can't be written.
    """
    heads: list[HeadName] = [head for head in HEADS if head in prediction.logits]
    predicted = {head: prediction.labels(head).cpu().numpy().astype(np.uint8) for head in heads}
    truths = {"true labels (dominant)" if sample.phantom is not None else "true labels": sample.dominant}
    if sample.phantom is not None:
        truths["true labels (phantom)"] = sample.phantom
    colors = labels.colors()

    columns = len(heads) + 1 + (sample.phantom is not None)
    height, width = sample.dominant.shape
    figure = Figure(figsize=(3.1 * columns + 0.6, 6.2 * height / width + 1.3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(2, columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    axes[0, 0].imshow(sample.image)
    axes[0, 0].set_title("image" if sample.phantom is None else f"blend, δ = {sample.delta:.2f}", fontsize=10)
    # Label maps stand under the image, a blend's second one to the right of both, so that heads keep to their columns.
    places = [axes[1, 0]] if len(truths) == 1 else [axes[0, 1], axes[1, 1]]
    for place, (name, truth) in zip(places, truths.items(), strict=True):
        place.imshow(colors[truth])
        place.set_title(name, fontsize=10)
    for column, head in enumerate(heads, start=columns - len(heads)):
        axes[0, column].imshow(colors[predicted[head]])
        axes[0, column].set_title(f"{head} {SYMBOLS[head]}", fontsize=10)
        confidence = prediction.probabilities(head).amax(dim=0).cpu().numpy()
        axes[1, column].imshow(confidence, cmap="jet", vmin=0, vmax=1)
        axes[1, column].set_title(f"confidence, mean {confidence.mean():.2f}", fontsize=10)
    scale = ScalarMappable(Normalize(0, 1), colormaps["jet"])
    figure.colorbar(scale, ax=list(axes[1, columns - len(heads) :]), fraction=0.025, pad=0.01)
    seen = np.unique(np.concatenate([m.ravel() for m in (*truths.values(), *predicted.values())]))
    names = [(int(c), labels.names[c] if c < len(labels) else "void") for c in seen]
    patches = [Patch(facecolor=colors[c] / 255, edgecolor="0.4", label=name) for c, name in names]
    if sample.phantom is None:
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 2 * columns), frameon=False)
    else:
        axes[1, 0].legend(handles=patches, loc="center", ncols=1 + len(patches) // 9, fontsize=9, frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise unwritable(path, error) from error
