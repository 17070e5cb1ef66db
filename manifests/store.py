"""The manifest of a store: what it holds and how it was made (:class:`ShardManifest`)."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from .base import Frozen
from .clusters import MembershipRule, SourceSpec
from .codecs import CodecName
from .labels import LabelSet

FORMAT = "fbind.blends"
VERSION = 1
ATTRIBUTE = "fbind"
"""The group attribute that holds the manifest."""

DeltaRange = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]


class CategoryStrategy(Frozen):
    """C_fb of Table 5(a): every cluster member meets one partner from each other cluster."""

    name: Literal["category"] = "category"
    delta: DeltaRange = (0.7, 1.0)
    align: Literal["resize", "pad"] = "resize"
    disjoint: bool = False


class PlainStrategy(Frozen):
    """No blending: every image of the split once, for the baseline, for stage 2 and for validation."""

    name: Literal["none"] = "none"


Strategy = Annotated[CategoryStrategy | PlainStrategy, Field(discriminator="name")]


class ShardManifest(Frozen):
    """The ``fbind`` attribute of a store's group.

    ``samples`` recipes, ``samples_per_shard`` of them in each shard; ``canvas`` is the (height, width) every sample is
    padded to; ``converted`` says that images which were not RGB have been converted, ``left_out`` which images could
    not be used; ``images`` is the id table that ``recipe/*_image`` point into. ``digest`` is empty until ``complete``,
    then it seals the content: manifest, recipes and every shard's record.
    """

    format: Literal["fbind.blends"] = FORMAT
    version: Literal[1] = VERSION
    labels: LabelSet
    strategy: Strategy
    seed: int = Field(ge=0)
    samples: int = Field(gt=0)
    limit: int | None = Field(default=None, gt=0)
    samples_per_shard: int = Field(gt=0)
    canvas: tuple[int, int]
    codec: CodecName
    source: SourceSpec
    rule: MembershipRule
    clusters_digest: str
    converted: bool = False
    left_out: tuple[str, ...] = ()
    images: tuple[str, ...] = Field(min_length=1)
    software: dict[str, str]
    complete: bool = False
    digest: str = ""

    @property
    def blended(self) -> bool:
        """Whether the store has phantom label maps."""
        return self.strategy.name != "none"

    @property
    def shards(self) -> int:
        """How many shards each pixel array has."""
        return -(-self.samples // self.samples_per_shard)

    def rows_of(self, shard: int) -> range:
        """The samples in a shard."""
        first = shard * self.samples_per_shard
        return range(first, min(first + self.samples_per_shard, self.samples))

    def pixel_arrays(self) -> tuple[PixelArray, ...]:
        """The sharded arrays, in the order in which a shard's record lists them."""
        height, width = self.canvas
        arrays = [PixelArray("image", (height, width, 3)), PixelArray("dominant", (height, width))]
        if self.blended:
            arrays.append(PixelArray("phantom", (height, width)))
        return tuple(arrays)

    def columns(self) -> tuple[Column, ...]:
        """The per-sample columns, known as soon as the recipes are planned."""
        columns = [Column("delta", "float32"), Column("size", "uint16", 2), Column("recipe/dominant_image", "int32")]
        if self.blended:
            columns += [
                Column("recipe/phantom_image", "int32"),
                Column("recipe/dominant_class", "uint8"),
                Column("recipe/phantom_class", "uint8"),
            ]
        return tuple(columns)

    def content(self) -> dict[str, object]:
        """What identifies the store's content: everything but where the sources lay, versions, and completeness."""
        return self.model_dump(
            mode="json", exclude={"source": {"root"}, "software": True, "complete": True, "digest": True}
        )


class PixelArray(NamedTuple):
    """A sharded uint8 array: one chunk per sample of shape ``sample_shape``."""

    name: str
    sample_shape: tuple[int, ...]

    @property
    def labels(self) -> bool:
        """Whether it holds label maps (otherwise: RGB images)."""
        return len(self.sample_shape) == 2

    @property
    def ndim(self) -> int:
        """Dimensions of the whole array, the sample axis included."""
        return 1 + len(self.sample_shape)

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of the dimensions, for xarray and people."""
        return ("sample", "y", "x", "rgb")[: self.ndim]

    @property
    def padding(self) -> int:
        """What fills the canvas at the bottom and right: black, or void."""
        return 255 if self.labels else 0


class Column(NamedTuple):
    """A small per-sample array of ``width`` values (1: no second dimension)."""

    name: str
    dtype: str
    width: int = 1
