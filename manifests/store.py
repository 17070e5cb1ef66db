"""The manifest of a store: what it holds and how it was made (:class:`ShardManifest`)."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from .base import Frozen
from .clusters import MembershipRule, SourceSpec
from .codecs import CodecName
from .labels import LabelSet
from .strategies import Strategy

FORMAT = "fbind.blends"
VERSION = 2
ATTRIBUTE = "fbind"
"""The group attribute that holds the manifest."""

Layout = Literal["full", "virtual"]
"""Whether a store holds blends, or what they are made from."""


class ShardManifest(Frozen):
    """The ``fbind`` attribute of a store's group.

    ``samples`` recipes over the id table ``images`` (``recipe/*_image`` point into it). A store with the layout
    ``full`` holds the pixels of every sample; a ``virtual`` one holds every source image once, and its reader blends.
    Either way the pixel arrays have ``rows`` rows, ``samples_per_shard`` of them in each shard, padded to ``canvas``
    (height, width). ``max_side`` is the longest side of a source image in pixels, where larger ones were scaled down;
    ``converted`` says that images which were not RGB have been converted, ``left_out`` which could not be used.

    ``plan`` is the fingerprint of all that determines the store's bytes: manifest, recipes, and the sources' digests.
    ``digest`` is empty until ``complete``, then it seals the content: the plan and every shard's record.
    """

    format: Literal["fbind.blends"] = FORMAT
    version: Literal[2] = VERSION
    layout: Layout = "full"
    labels: LabelSet
    strategy: Strategy
    seed: int = Field(ge=0)
    samples: int = Field(gt=0)
    limit: int | None = Field(default=None, gt=0)
    samples_per_shard: int = Field(gt=0)
    canvas: tuple[int, int]
    max_side: int | None = Field(default=None, gt=0)
    codec: CodecName
    source: SourceSpec
    rule: MembershipRule
    clusters_digest: str
    converted: bool = False
    left_out: tuple[str, ...] = ()
    images: tuple[str, ...] = Field(min_length=1)
    software: dict[str, str]
    plan: str = ""
    complete: bool = False
    digest: str = ""

    @property
    def blended(self) -> bool:
        """Whether its samples have phantom label maps."""
        return self.strategy.blended

    @property
    def rows(self) -> int:
        """How many rows the pixel arrays have: one for each sample, or in a virtual store for each source image."""
        return self.samples if self.layout == "full" else len(self.images)

    @property
    def shards(self) -> int:
        """How many shards each pixel array has."""
        return -(-self.rows // self.samples_per_shard)

    def rows_of(self, shard: int) -> range:
        """The rows of the pixel arrays that lie in a shard."""
        first = shard * self.samples_per_shard
        return range(first, min(first + self.samples_per_shard, self.rows))

    def pixel_arrays(self) -> tuple[PixelArray, ...]:
        """The sharded arrays, in the order in which a shard's record lists them."""
        names = ["image", "dominant", *(["phantom"] if self.blended else [])]
        if self.layout == "virtual":
            names = ["source/image", "source/labels"]
        first, *label_maps = names
        return (PixelArray(first, (*self.canvas, 3)), *(PixelArray(name, self.canvas) for name in label_maps))

    def columns(self) -> tuple[Column, ...]:
        """The small arrays, known before the first shard is written."""
        columns = [Column("delta", "float32"), Column("size", "uint16", 2), Column("recipe/dominant_image", "int32")]
        if self.blended:
            columns += [
                Column("recipe/phantom_image", "int32"),
                Column("recipe/dominant_class", "uint8"),
                Column("recipe/phantom_class", "uint8"),
            ]
        return (*columns, Column("source/size", "uint16", 2, "image"), Column("source/digest", "uint8", 32, "image"))

    def column_shape(self, column: Column) -> tuple[int, ...]:
        """The shape of a column's values."""
        length = self.samples if column.axis == "sample" else len(self.images)
        return (length,) if column.width == 1 else (length, column.width)

    def content(self) -> dict[str, object]:
        """What determines the samples: everything but where the sources lay, versions, and how far the store is."""
        return self.model_dump(
            mode="json",
            exclude={"source": {"root"}, "software": True, "plan": True, "complete": True, "digest": True},
        )


class PixelArray(NamedTuple):
    """A sharded uint8 array: one chunk for each row, of shape ``sample_shape``."""

    name: str
    sample_shape: tuple[int, ...]

    @property
    def labels(self) -> bool:
        """Whether it holds label maps (otherwise: RGB images)."""
        return len(self.sample_shape) == 2

    @property
    def ndim(self) -> int:
        """Dimensions of the whole array, the first axis included."""
        return 1 + len(self.sample_shape)

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of the dimensions, for xarray and people."""
        first = "source_image" if self.name.startswith("source/") else "sample"
        return (first, "y", "x", "rgb")[: self.ndim]

    @property
    def padding(self) -> int:
        """What fills the canvas at the bottom and right: black, or void."""
        return 255 if self.labels else 0


class Column(NamedTuple):
    """A small array with ``width`` values (1: no second dimension) for each sample, or each image of the id table."""

    name: str
    dtype: str
    width: int = 1
    axis: Literal["sample", "image"] = "sample"

    @property
    def key(self) -> str:
        """The file of its only chunk, relative to the store."""
        return f"{self.name}/c/0" + ("/0" if self.width > 1 else "")

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of the dimensions, for xarray and people."""
        first = "sample" if self.axis == "sample" else "source_image"
        second = {1: (), 2: ("hw",)}.get(self.width, ("byte",))
        return (first, *second)
