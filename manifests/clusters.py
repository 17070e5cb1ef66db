"""``clusters.json``: which images hold which categories (:class:`ClusterManifest`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from .base import Frozen, canonical_json, content_digest, first_problem, write_atomically
from .errors import ManifestError, MissingFileError, UnknownVersionError
from .labels import LabelSet

FORMAT = "fbind.clusters"
VERSION = 1


class ObjectRecord(Frozen):
    """One annotated object of an image, as VOC's Annotations XML states it."""

    category: int
    occluded: bool = False
    difficult: bool = False
    truncated: bool = False


class ImageRecord(Frozen):
    """One image: its size in pixels, and how many pixels of its label map each class has (void left out).

    ``objects`` is ``None`` where the dataset has no object annotations.
    """

    id: str
    height: int = Field(gt=0, le=65535)
    width: int = Field(gt=0, le=65535)
    pixels: dict[int, int]
    objects: tuple[ObjectRecord, ...] | None = None


class SourceSpec(Frozen):
    """Where a dataset lies and how it is read."""

    kind: Literal["voc", "folder"]
    root: str
    split: str
    labels_dir: str | None = None


class MembershipRule(Frozen):
    """When an image joins a category's cluster.

    ``all``: every category of which it has at least ``min_pixels`` pixels; ``dominant``: only the largest of those
    (the lower class index wins a tie).
    """

    membership: Literal["all", "dominant"] = "all"
    min_pixels: int = Field(default=1, ge=1)

    def categories(self, pixels: dict[int, int], labels: LabelSet) -> tuple[int, ...]:
        """The categories whose clusters an image with these pixel counts joins, ascending."""
        # By the few classes of the image, not by the many of the label set: datasets have 100,000 images.
        present = [c for c in sorted(pixels) if pixels[c] >= self.min_pixels and c != labels.background]
        if self.membership == "dominant" and present:
            return (max(present, key=lambda c: (pixels[c], -c)),)
        return tuple(present)


class ClusterManifest(Frozen):
    """Category clusters of one split of one dataset, with the facts they rest on.

    ``clusters`` maps every category's name to the ids of its images, in the order of ``images``; an empty cluster
    is an empty list. ``cooccurrence[i][j]`` counts the images that contain both class i and class j (at least
    ``min_pixels`` of each); the diagonal counts the images that contain class i.
    """

    format: Literal["fbind.clusters"] = FORMAT
    version: Literal[1] = VERSION
    labels: LabelSet
    source: SourceSpec
    rule: MembershipRule
    images: tuple[ImageRecord, ...] = Field(min_length=1)
    clusters: dict[str, tuple[str, ...]]
    cooccurrence: tuple[tuple[int, ...], ...]
    digest: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = {image.id for image in self.images}
        if len(ids) != len(self.images):
            raise ValueError("an image id appears twice in the image table")
        names = [self.labels.names[c] for c in self.labels.categories]
        if list(self.clusters) != names:
            raise ValueError("the clusters are not the label set's categories in their order")
        for name, members in self.clusters.items():
            unknown = next((member for member in members if member not in ids), None)
            if unknown is not None:
                raise ValueError(f"cluster {name!r} names image {unknown!r}, which is not in the image table")
        count = len(self.labels)
        if len(self.cooccurrence) != count or any(len(row) != count for row in self.cooccurrence):
            raise ValueError(f"the co-occurrence matrix must be {count} x {count}")
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """The image ids; their position is the image's row in every table derived from this manifest."""
        return tuple(image.id for image in self.images)

    def rows(self) -> dict[int, np.ndarray]:
        """For every category: the rows of its members in ``images``, int32, ascending."""
        row = {image.id: index for index, image in enumerate(self.images)}
        return {
            category: np.array([row[member] for member in self.clusters[self.labels.names[category]]], np.int32)
            for category in self.labels.categories
        }

    def presence(self) -> np.ndarray:
        """(images, K) bool: whether an image contains a class, at least ``min_pixels`` of it."""
        return presence(self.images, self.labels, self.rule.min_pixels)

    def without(self, ids: set[str]) -> ClusterManifest:
        """The same clusters with some images left out; the co-occurrence counts are those of the images that stay."""
        images = tuple(image for image in self.images if image.id not in ids)
        return build_manifest(self.labels, self.source, self.rule, images)


def cooccurrence(images: tuple[ImageRecord, ...], labels: LabelSet, min_pixels: int) -> np.ndarray:
    """(K, K) int64 counts of images that contain both classes, at least ``min_pixels`` of each."""
    counts = np.zeros((len(labels), len(labels)), np.int64)
    there = presence(images, labels, min_pixels)
    for first in range(0, len(images), 1 << 16):
        # In floating point the product is many times faster, and so small counts are exact in float32.
        part = there[first : first + (1 << 16)].astype(np.float32)
        counts += (part.T @ part).astype(np.int64)
    return counts


def presence(images: tuple[ImageRecord, ...], labels: LabelSet, min_pixels: int) -> np.ndarray:
    """(images, K) bool: whether an image contains a class, at least ``min_pixels`` of it."""
    found = np.zeros((len(images), len(labels)), bool)
    rows = np.repeat(np.arange(len(images)), [len(image.pixels) for image in images])
    values = np.fromiter((value for image in images for value in image.pixels), np.int64, len(rows))
    counts = np.fromiter((count for image in images for count in image.pixels.values()), np.int64, len(rows))
    found[rows, values] = counts >= min_pixels
    return found


def build_manifest(
    labels: LabelSet, source: SourceSpec, rule: MembershipRule, images: tuple[ImageRecord, ...]
) -> ClusterManifest:
    """Group images into category clusters (paper, section 3.1) and seal the result with its digest."""
    members: dict[str, list[str]] = {labels.names[c]: [] for c in labels.categories}
    for image in images:
        for category in rule.categories(image.pixels, labels):
            members[labels.names[category]].append(image.id)
    counts = cooccurrence(images, labels, rule.min_pixels)
    manifest = ClusterManifest(
        labels=labels,
        source=source,
        rule=rule,
        images=images,
        clusters={name: tuple(ids) for name, ids in members.items()},
        cooccurrence=tuple(tuple(int(n) for n in row) for row in counts),
    )
    return manifest.model_copy(update={"digest": clusters_digest(manifest)})


def clusters_digest(manifest: ClusterManifest) -> str:
    """Digest of everything the manifest says, except where the dataset lies: moving a dataset changes nothing."""
    content = manifest.model_dump(mode="json", exclude={"digest": True, "source": {"root"}})
    return content_digest(content)


def save_clusters(manifest: ClusterManifest, path: Path) -> None:
    """Write ``clusters.json`` atomically; one line per field, image and cluster, so that it diffs well."""
    plain = manifest.model_dump(mode="json")
    for image in plain["images"]:
        if image["objects"] is None:
            del image["objects"]
    fields = []
    for name, value in plain.items():
        if name in ("images", "cooccurrence"):
            body = "[\n    " + ",\n    ".join(canonical_json(row) for row in value) + "\n  ]"
        elif name == "clusters":
            rows = (f"{json.dumps(key, ensure_ascii=False)}: {canonical_json(ids)}" for key, ids in value.items())
            body = "{\n    " + ",\n    ".join(rows) + "\n  }"
        else:
            body = json.dumps(value, ensure_ascii=False)
        fields.append(f'  "{name}": {body}')
    write_atomically(path, ("{\n" + ",\n".join(fields) + "\n}\n").encode())


def load_clusters(path: Path) -> ClusterManifest:
    """Read and check ``clusters.json``.

    Raises :class:`MissingFileError`, :class:`UnknownVersionError`, or :class:`ManifestError` when the file is not a
    clusters file, is inconsistent, or does not match its digest (it was edited by hand or damaged).
    """
    again = "write it again with `fbind build-clusters`"
    try:
        content = path.read_bytes()
        plain = json.loads(content)
    except FileNotFoundError:
        raise MissingFileError(f"no clusters file at {path}: {again}") from None
    except OSError as error:
        raise MissingFileError(f"can't read the clusters file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(f"{path} is not valid JSON ({error}): {again}") from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ManifestError(f'{path} is not a clusters file (its "format" is not "{FORMAT}"): {again}')
    if plain.get("version") != VERSION:
        raise UnknownVersionError(
            f"{path} has version {plain.get('version')!r} of the clusters format, this fbind reads {VERSION}: {again}"
        )
    del plain  # as large as the manifest itself
    try:
        manifest = ClusterManifest.model_validate_json(content)
    except ValidationError as error:
        raise ManifestError(f"{path} is inconsistent ({first_problem(error)}): {again}") from None
    if manifest.digest != clusters_digest(manifest):
        raise ManifestError(f"{path} does not match its digest, so it was edited or damaged: {again}")
    return manifest
