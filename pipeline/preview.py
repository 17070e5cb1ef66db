"""The contact sheet of a store: what was blended, the blend, and both label maps in the label set's colours."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..manifests.base import write_atomically
from ..manifests.blending import align_image
from ..manifests.errors import ConfigError, FbindError, SourceError
from ..manifests.labels import LabelSet
from ..manifests.reader import BlendStore, Sample
from ..manifests.storage import Place, is_url
from ..manifests.strategies import NO_CLASS
from .cache import pixel_digest
from .fitting import fit
from .sources import Source, open_source

TILE = 264
"""Longest side of a picture on the sheet, in pixels."""

MOST_SAMPLES = 200
"""More than anyone looks at on one sheet."""

TALLEST = 65_500
"""Height of the tallest sheet in pixels: more than a JPEG can have, and than most viewers show of a PNG."""

GAP, MARGIN, LINE, CHIP = 14, 26, 19, 11
INK, FAINT, PAPER, RULE = (31, 36, 48), (128, 134, 148), (255, 255, 255), (226, 229, 235)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@dataclass(frozen=True)
class Tile:
    """One picture of a row, with what stands below it."""

    picture: Image.Image
    caption: str = ""
    chips: tuple[tuple[str, tuple[int, int, int]], ...] = ()


@dataclass(frozen=True)
class Row:
    """One sample."""

    title: str
    tiles: tuple[Tile | None, ...]


def draw_preview(
    store: BlendStore, path: Path, *, samples: int = 8, seed: int = 0, root: Place | None = None
) -> str | None:
    """Draw some samples of a store, drawn with ``seed``, as a contact sheet (PNG or JPEG) at ``path``.

    A virtual store holds the images that were blended. A full one does not; they are read from the dataset named in
    its manifest, or from ``root`` when it has been moved. Returns why that was not possible, in which case the sheet
    goes without them, or ``None``.

    Raises :class:`~fbind.manifests.errors.ConfigError` for another kind of file or too many samples for one sheet,
    :class:`~fbind.manifests.errors.CorruptStoreError` for a damaged sample and
    :class:`~fbind.manifests.errors.ResourceError` when the place can't be written.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"can't draw a sheet as {path.name!r}: end its name in {', '.join(FORMATS)}")
    count = min(samples, len(store))
    if count > MOST_SAMPLES:
        raise ConfigError(f"{count:,} samples are too many for one sheet: draw at most --samples {MOST_SAMPLES}")
    chosen = np.sort(np.random.default_rng(seed).choice(len(store), count, replace=False))
    source, note = _source(store, root)
    rows = []
    for index in chosen.tolist():
        sample = store.read(index)
        originals = None
        if store.manifest.blended and (source is not None or store.manifest.layout == "virtual"):
            try:
                originals = read_originals(store, source, sample)
            except SourceError as error:
                note = str(error)
        rows.append(_row(store, sample, originals))
    headings = ("dominant image", "phantom image", "blend", "dominant labels", "phantom labels")
    if not store.manifest.blended:
        headings = ("image", "labels")
    elif all(row.tiles[0] is None for row in rows):
        headings, rows = headings[2:], [Row(row.title, row.tiles[2:]) for row in rows]
    sheet = _sheet(store, headings, rows, note)
    stream = io.BytesIO()
    sheet.save(stream, kind, **({"quality": 92} if kind == "JPEG" else {}))
    write_atomically(path, stream.getvalue())
    return note


Originals = tuple[np.ndarray, np.ndarray | None]
"""The dominant image and the aligned phantom image, (h, w, 3) uint8 RGB; no phantom where a sample stayed plain."""


def read_originals(store: BlendStore, source: Source | None, sample: Sample) -> Originals:
    """The images that a blend was made from: of a virtual store its own, else those of the dataset.

    Raises :class:`~fbind.manifests.errors.SourceError` when they are not there, or not those the store was made from.
    """
    dominant, phantom = _rows(store, sample.index)
    image = _original(store, source, dominant)
    if phantom < 0:
        return image, None
    size = (sample.image.shape[0], sample.image.shape[1])
    return image, align_image(_original(store, source, phantom), size, store.manifest.strategy.align)


def _original(store: BlendStore, source: Source | None, row: int) -> np.ndarray:
    """The image (h, w, 3) in a row of the id table, as it was blended."""
    if source is None:
        return store.source(row)[0]
    image_id = store.manifest.images[row]
    height, width = store.column("source/size")[row]
    image = source.image(image_id, convert=store.manifest.converted)
    image, labels = fit(image, source.label_map(image_id), (int(height), int(width)))
    if pixel_digest(image, labels) != store.column("source/digest")[row].tobytes():
        raise SourceError(f"image {image_id} of {source.spec.root} is not the one the store was made from")
    return image


def overlay(image: np.ndarray, labels: np.ndarray, label_set: LabelSet, size: tuple[int, int]) -> Image.Image:
    """A label map over its image, both (h, w), scaled to ``size`` = (width, height).

    The image is faint and grey where there is background, categories take the label set's colours, void is white
    with hatching, and a white line runs along every boundary.
    """
    grey = np.asarray(_scaled(image, size).convert("L"), np.float32)[..., None]
    classes = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    color = label_set.colors()[classes].astype(np.float32)
    picture = 0.66 * color + 0.34 * grey
    if label_set.background is not None:
        picture = np.where((classes == label_set.background)[..., None], 0.45 * grey + 0.55 * 255.0, picture)
    edge = np.zeros(classes.shape, bool)
    edge[1:] |= classes[1:] != classes[:-1]
    edge[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    picture[edge] = 255.0
    void = classes == label_set.void
    y, x = np.indices(classes.shape)
    picture[void] = np.where((x + y) % 6 < 2, 150.0, 255.0)[void][:, None]
    return Image.fromarray(picture.astype(np.uint8))


def _source(store: BlendStore, root: Place | None) -> tuple[Source | None, str | None]:
    """The dataset a store of blends was made from, or why it can't be read."""
    if not store.manifest.blended or store.manifest.layout == "virtual":
        return None, None
    spec = store.manifest.source
    if root is not None:
        spec = spec.model_copy(update={"root": str(root) if is_url(root) else str(Path(root).absolute())})
    try:
        return open_source(spec), None
    except FbindError as error:
        return None, str(error)


def _rows(store: BlendStore, index: int) -> tuple[int, int]:
    """Where the dominant and the phantom image stand in the id table; -1 where a sample is plain."""
    phantom = int(store.column("recipe/phantom_image")[index]) if store.manifest.blended else -1
    return int(store.column("recipe/dominant_image")[index]), phantom


def _row(store: BlendStore, sample: Sample, originals: Originals | None) -> Row:
    """The tiles of one sample; the first two of a blend are ``None`` without the originals."""
    label_set = store.manifest.labels
    size = _fit(sample.image.shape[1], sample.image.shape[0])
    dominant, phantom = _rows(store, sample.index)
    dominant_id, phantom_id = store.manifest.images[dominant], store.manifest.images[phantom] if phantom >= 0 else ""
    title = f"sample {sample.index:,}"
    image = Tile(_scaled(sample.image, size), dominant_id)
    if sample.phantom is None:
        return Row(title, (image, _labels(sample.image, sample.dominant, label_set, size)))
    weights = f"{sample.delta:.2f} · I₁ + {1 - sample.delta:.2f} · I₂"
    classes = (store.column(f"recipe/{role}_class")[sample.index] for role in ("dominant", "phantom"))
    first, second = ("–" if value == NO_CLASS else label_set.names[value] for value in classes)
    below, under = originals or (sample.image, sample.image)
    ids = f"{dominant_id} · {phantom_id}" if phantom_id else dominant_id
    return Row(
        f"{title}    δ = {sample.delta:.3f}    {first} × {second}",
        (
            Tile(_scaled(below, size), dominant_id) if originals else None,
            Tile(_scaled(under, size), phantom_id) if originals and under is not None else None,
            Tile(_scaled(sample.image, size), weights if originals else ids),
            _labels(below, sample.dominant, label_set, size),
            _labels(sample.image if under is None else under, sample.phantom, label_set, size),
        ),
    )


def _labels(image: np.ndarray, labels: np.ndarray, label_set: LabelSet, size: tuple[int, int]) -> Tile:
    """An overlay with a chip for every category in it, the largest first."""
    counts = np.bincount(labels.reshape(-1), minlength=256)
    present = sorted((c for c in label_set.categories if counts[c]), key=lambda c: -counts[c])
    chips = tuple((label_set.names[c], label_set.palette[c]) for c in present)
    return Tile(overlay(image, labels, label_set, size), chips=chips)


def _fit(width: int, height: int) -> tuple[int, int]:
    """(width, height) on the sheet; small pictures grow by a whole factor, so that their pixels stay square."""
    scale = TILE / max(width, height)
    if scale > 1:
        scale = max(int(scale), 1)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _scaled(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A (h, w, 3) picture in another size: averaged when it shrinks, its pixels repeated when it grows."""
    how = Image.Resampling.NEAREST if size[0] >= image.shape[1] else Image.Resampling.LANCZOS
    return Image.fromarray(np.ascontiguousarray(image)).resize(size, how)


def _font(points: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings along and which has the Greek letters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), points)


def _sheet(store: BlendStore, headings: tuple[str, ...], rows: list[Row], note: str | None) -> Image.Image:
    """Lay the rows out below the headings."""
    column = max(
        [tile.picture.width for row in rows for tile in row.tiles if tile is not None] + [_font(12).getlength("m" * 14)]
    )
    column = int(column) + GAP
    width = max(2 * MARGIN + column * len(headings) - GAP, 560)
    flows = [[_flow(tile, column - GAP) for tile in row.tiles] for row in rows]
    heights = [
        2 * LINE
        + max(tile.picture.height for tile in row.tiles if tile is not None)
        + LINE * max(len(lines) for lines in flow)
        + GAP
        for row, flow in zip(rows, flows, strict=True)
    ]
    top = MARGIN + 30 + LINE * (3 if note else 2) + LINE
    bottoms = top + np.cumsum(heights) + MARGIN
    if bottoms[-1] > TALLEST:
        fitting = max(int(np.searchsorted(bottoms, TALLEST, side="right")), 1)
        raise ConfigError(
            f"a sheet of {len(rows)} samples would be {bottoms[-1]:,} pixels high, expected at most {TALLEST:,}: "
            f"draw fewer, --samples {fitting} or so"
        )
    sheet = Image.new("RGB", (width, int(bottoms[-1])), PAPER)
    draw = ImageDraw.Draw(sheet)
    _head(draw, store, len(rows), note, width)
    for index, heading in enumerate(headings):
        draw.text((MARGIN + index * column, top - LINE - 4), heading, FAINT, _font(13, bold=True))
    for row, flow, height in zip(rows, flows, heights, strict=True):
        draw.line((MARGIN, top, width - MARGIN, top), RULE)
        draw.text((MARGIN, top + 8), row.title, INK, _font(13, bold=True))
        tallest = max(tile.picture.height for tile in row.tiles if tile is not None)
        for index, (tile, lines) in enumerate(zip(row.tiles, flow, strict=True)):
            if tile is None:
                continue
            left = MARGIN + index * column
            sheet.paste(tile.picture, (left, top + 2 * LINE - 8))
            _below(draw, (left, top + 2 * LINE - 4 + tallest), lines)
        top += height
    return sheet


Words = list[tuple[str, tuple[int, int, int] | None]]
"""A line of text: words, each with the colour of the chip before it."""


def _flow(tile: Tile | None, width: int) -> list[Words]:
    """Break a tile's caption and chips into lines of at most ``width`` pixels; what is too long is cut."""
    if tile is None:
        return []
    font = _font(12)
    lines: list[Words] = [[(_cut(tile.caption, font, width), None)]] if tile.caption else []
    used = width
    for name, color in tile.chips:
        name = _cut(name, font, width - CHIP - 5)
        needed = CHIP + 5 + int(font.getlength(name)) + 10
        if used + needed - 10 > width:
            lines.append([])
            used = 0
        lines[-1].append((name, color))
        used += needed
    return lines


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    text = " ".join(text.split())  # a file's name may hold line breaks, which have no width
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _below(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: list[Words]) -> None:
    """Write the lines below a picture."""
    font = _font(12)
    for number, words in enumerate(lines):
        left, top = place[0], place[1] + number * LINE
        for text, color in words:
            if color is not None:
                draw.rounded_rectangle((left, top + 2, left + CHIP, top + 2 + CHIP), 2, color)
                left += CHIP + 5
            draw.text((left, top), text, INK, font)
            left += int(font.getlength(text)) + 10


def _head(draw: ImageDraw.ImageDraw, store: BlendStore, drawn: int, note: str | None, width: int) -> None:
    """Title, what the store is, and the sign for void."""
    manifest = store.manifest
    draw.text((MARGIN, MARGIN - 6), _cut(Path(store.place).name, _font(20, bold=True), width - 2 * MARGIN), INK,
              _font(20, bold=True))  # fmt: skip
    what = "blends" if manifest.blended else "plain images"
    text = f"{drawn:,} of {len(store):,} {what} · {manifest.source.kind} {manifest.source.split} · seed {manifest.seed}"
    if manifest.blended:
        low, high = manifest.strategy.delta
        delta = f"δ = {low:g}" if low == high else f"δ in [{low:g}, {high:g}]"
        text += f" · strategy {manifest.strategy.name}, {delta}"
    top = MARGIN + 26
    draw.text((MARGIN, top), _cut(text, _font(12), width - 2 * MARGIN - 90), FAINT, _font(12))
    left = width - MARGIN - 50
    for y in range(CHIP + 1):
        for x in range(CHIP + 1):
            draw.point((left + x, top + 2 + y), (150,) * 3 if (x + y) % 6 < 2 else PAPER)
    draw.rectangle((left, top + 2, left + CHIP, top + 2 + CHIP), outline=FAINT)
    draw.text((left + CHIP + 5, top), "void", FAINT, _font(12))
    if note:
        text = f"without the images that were blended: {note}"
        draw.text((MARGIN, top + LINE), _cut(text, _font(12), width - 2 * MARGIN), (176, 80, 40), _font(12))
