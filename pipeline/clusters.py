"""One parallel pass over a dataset's label maps: what every image holds, and from it the category clusters."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from ..manifests.clusters import (
    ClusterManifest,
    ImageRecord,
    MembershipRule,
    ObjectRecord,
    SourceSpec,
    build_manifest,
)
from ..manifests.errors import BadLabelError, ResourceError
from ..manifests.labels import LabelSet
from ..manifests.storage import open_storage
from .counting import count_pixels
from .sources import Source
from .sources.folder import LABELS_DIR as FOLDER_LABELS_DIR
from .sources.voc import LABELS_DIR as VOC_LABELS_DIR

IMAGES_PER_TASK = 48
"""Some 20 ms of work on VOC: task overhead vanishes, and no process waits long for the last tasks of the others."""

IMAGES_PER_WORKER = 1000
"""A worker process takes about as long to start as it takes to count this many label maps of VOC's size."""

Counted = tuple[int, int, dict[int, int], tuple[ObjectRecord, ...] | None]
"""Height, width, pixels of every class that occurs, objects: plain values, cheap to send between processes."""


def cluster(
    source: Source, rule: MembershipRule, *, workers: int | None = None, advance: Callable[[int], object] | None = None
) -> ClusterManifest:
    """Count every label map of the source and group its images into category clusters (paper, section 3.1).

    Only label maps (and annotations, where there are any) are opened, never the images. ``workers`` processes share
    the work; ``None`` takes as many as there are cores and work for, and 1 stays in this process. ``advance`` is told
    how many images have been finished since it was last called. The result does not depend on ``workers``.

    Raises :class:`~fbind.manifests.errors.BadLabelError` for a label map with values outside the label set, whatever
    the source raises for a split or a file that can't be read, and :class:`~fbind.manifests.errors.ResourceError`
    when a worker dies.
    """
    ids = source.ids()
    if workers is None:
        workers = min(usable_cores(), len(ids) // IMAGES_PER_WORKER)
    tasks = [ids[start : start + IMAGES_PER_TASK] for start in range(0, len(ids), IMAGES_PER_TASK)]
    counted: list[Counted] = []
    for done in _run(functools.partial(count_images, source), tasks, min(workers, len(tasks))):
        counted += done
        if advance is not None:
            advance(len(done))
    images = tuple(
        ImageRecord(id=image_id, height=height, width=width, pixels=pixels, objects=objects)
        for image_id, (height, width, pixels, objects) in zip(ids, counted, strict=True)
    )
    return build_manifest(source.labels, source.spec, rule, images)


def count_images(source: Source, ids: Sequence[str]) -> list[Counted]:
    """Size, pixels per class and objects of each of some images; raises as :func:`cluster` does."""
    counted: list[Counted] = []
    for image_id in ids:
        label_map = source.label_map(image_id)
        pixels = count_pixels(label_map)
        if max(pixels, default=0) >= len(source.labels):
            raise BadLabelError(_outside(source.labels, source.spec, image_id, pixels))
        height, width = label_map.shape
        counted.append((height, width, pixels, source.objects(image_id)))
    return counted


def usable_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run(
    function: Callable[[Sequence[str]], list[Counted]], tasks: list[tuple[str, ...]], workers: int
) -> Iterator[list[Counted]]:
    """The function's result for every task, in order, computed by this process and ``workers`` - 1 others."""
    if workers <= 1:
        yield from map(function, tasks)
        return
    # Forking a process that runs threads may deadlock the child, so workers come from a fork server, which imports
    # this module once for all of them; where there is none, each starts from nothing.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["__main__", __name__])
    pool = ProcessPoolExecutor(workers - 1, mp_context=context)
    try:
        futures = [pool.submit(function, task) for task in tasks]
        # Starting the others takes a good part of a second; this process takes tasks from the end meanwhile, and goes
        # on until it meets one that they have taken.
        own: list[list[Counted]] = []
        while len(own) < len(tasks) and futures[-1 - len(own)].cancel():
            own.append(function(tasks[-1 - len(own)]))
        for future in futures[: len(tasks) - len(own)]:
            yield future.result()
        yield from reversed(own)
    except BrokenProcessPool as error:
        raise ResourceError(
            "a process that counts label maps died, most likely for lack of memory: try again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _outside(labels: LabelSet, spec: SourceSpec, image_id: str, pixels: dict[int, int]) -> str:
    """What to say about a label map with values outside the label set."""
    folder = spec.labels_dir or {"voc": VOC_LABELS_DIR, "folder": FOLDER_LABELS_DIR}[spec.kind]
    where = open_storage(spec.root).where(f"{folder}/{image_id}.png")
    values = [value for value in pixels if value >= len(labels)]
    listed = ", ".join(str(value) for value in values[:5]) + (", ..." if len(values) > 5 else "")
    return (
        f"label map {where} holds {'values' if len(values) > 1 else 'the value'} "
        f"{listed}, expected 0 to {len(labels) - 1} ({len(labels)} classes) or {labels.void} (void): "
        "correct the label map, or name all classes in the dataset's classes.json"
    )
