"""``fbind materialize-blends`` against the writers of litdata, mosaicml-streaming and webdataset, on the same samples.

    python -m venv peers && peers/bin/pip install -e ".[pipeline]" -r benchmarks/requirements.txt
    peers/bin/python benchmarks/writers.py --root VOC --split train_sample --labels-dir SegmentationClassAug

A sample is the blend, its two label maps, δ and its number. The peers get it from ``fbind.manifests.blending.blend``
with all sources decoded and in memory before the clock starts; decoding and checking them is in the time of our whole
command, and not in that of its shard tasks alone. All write with as many processes as ours has workers; those of
mosaicml-streaming and webdataset are started beforehand, litdata's ``optimize`` starts its own (forked, the quicker
way). Images keep their own size, as a user would leave them, while ours pads them to the canvas. Each peer writes in
its plain and in its compressed setting, lossless both; chunks have mosaicml-streaming's default size. Every repetition
runs all of them in alternating order, each after an ``os.sync()``. What is written is read back: the number of samples,
and the pixels of one.

``--kill`` times nothing: three times it ends a writer's processes by SIGKILL part of the way, makes the same call
again, with whatever that writer offers for going on (litdata's ``use_checkpoint``, mosaicml-streaming's ``exist_ok``),
compares all samples and files with those of a call that nobody killed, and counts the samples that were made again.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import multiprocessing
import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import litdata  # pyright: ignore[reportMissingImports]
import numpy as np
import streaming  # pyright: ignore[reportMissingImports]
import webdataset  # pyright: ignore[reportMissingImports]
from materialize import Crew, Job, build_clusters, decode, ours, rate_of, spread, stored_bytes
from PIL import Image
from streaming.base.util import clean_stale_shared_memory, merge_index  # pyright: ignore[reportMissingImports]

from fbind.manifests.blending import blend
from fbind.manifests.strategies import CategoryStrategy
from fbind.pipeline.recipes import plan_recipes

MADE = multiprocessing.get_context("fork").Value("q", 0)
"""Samples produced so far, by all processes."""
PIXELS = ("image", "dominant", "phantom")
KILL_AT = (0.3, 0.6, 0.9)
"""Parts of the bytes that are there when a writer is killed."""
COLUMNS = {**dict.fromkeys(PIXELS, "ndarray"), "delta": "float32", "number": "int"}


def sample_of(job: Job, number: int) -> dict[str, Any]:
    """Make a sample: image (h, w, 3) and label maps (h, w) uint8, its δ and its number."""
    with MADE.get_lock():
        MADE.value += 1
    delta = job.delta[number]
    pixels = blend(job.pixels[job.dominant[number]], job.pixels[job.phantom[number]], delta)
    return {**pixels._asdict(), "delta": np.float32(delta), "number": number}


class Writer(NamedTuple):
    """A way to write all samples of a job into a folder, and to read them back."""

    write: Callable[[Crew, Job, Path, bool], None]
    """Processes, samples, an empty folder, and whether to go on with what a killed call has left there."""
    read: Callable[[Path], Iterator[dict[str, Any]]]
    """All samples in the order of the format."""


def write_litdata(compression: str | None, crew: Crew, job: Job, folder: Path, go_on: bool) -> None:
    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(folder.parent / "litdata-cache")  # not another disk than the rest
    litdata.optimize(
        functools.partial(sample_of, job),
        list(range(len(job.delta))),
        str(folder),
        chunk_bytes=1 << 26,
        compression=compression,
        num_workers=crew.size,
        start_method="fork",
        reorder_files=False,
        use_checkpoint=go_on,
        verbose=False,
    )


def read_litdata(folder: Path) -> Iterator[dict[str, Any]]:
    dataset = litdata.StreamingDataset(str(folder))
    for number in range(len(dataset)):
        yield dataset[number]


def write_mds(compression: str | None, crew: Crew, _job: Job, folder: Path, go_on: bool) -> None:
    crew.seconds(mds_share, folder, compression, go_on)
    merge_index(str(folder), keep_local=True)


def mds_share(job: Job, share: slice, _payload: bytes, folder: Path, compression: str | None, go_on: bool) -> None:
    out = str(folder / f"{share.start}")
    with streaming.MDSWriter(columns=COLUMNS, out=out, compression=compression, exist_ok=go_on) as writer:
        for number in range(len(job.delta))[share]:
            writer.write(sample_of(job, number))


def read_mds(folder: Path) -> Iterator[dict[str, Any]]:
    clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(local=str(folder), batch_size=1)
    for number in range(len(dataset)):
        yield dataset[number]


def write_tars(extension: str, crew: Crew, _job: Job, folder: Path, _go_on: bool) -> None:
    crew.seconds(tar_share, folder, extension)


def tar_share(job: Job, share: slice, _payload: bytes, folder: Path, extension: str) -> None:
    pattern = str(folder / f"{share.start}-%05d.tar")
    with webdataset.ShardWriter(pattern, maxcount=64, verbose=0) as writer:
        for number in range(len(job.delta))[share]:
            sample = sample_of(job, number)
            pixels = {f"{name}.{extension}": sample[name] for name in PIXELS}
            writer.write({"__key__": f"{number:08d}", **pixels, "delta.npy": sample["delta"], "number.index": number})


def read_tars(folder: Path) -> Iterator[dict[str, Any]]:
    tars = sorted(str(file) for file in folder.glob("*.tar"))
    for stored in webdataset.WebDataset(tars, shardshuffle=False):
        yield {
            name.partition(".")[0]: decoded(name.partition(".")[2], data)
            for name, data in stored.items()
            if not name.startswith("__")
        }


def decoded(extension: str, data: bytes) -> Any:
    """What a file of a tar holds; webdataset's own decoders would make RGB of a label map."""
    readers = {"npy": np.load, "png": lambda file: np.asarray(Image.open(file)), "index": lambda file: int(file.read())}
    return readers[extension](io.BytesIO(data))


WRITERS = {
    f"{name}, {setting}": Writer(functools.partial(write, option), read)
    for name, write, read, settings in (
        ("litdata", write_litdata, read_litdata, {"plain": None, "zstd": "zstd"}),
        ("mosaicml-streaming", write_mds, read_mds, {"plain": None, "zstd": "zstd"}),
        ("webdataset", write_tars, read_tars, {"npy": "npy", "png": "png"}),
    )
    for setting, option in settings.items()
}


def check(name: str, job: Job, folder: Path) -> list[int]:
    """The order of the samples; raises unless all are there, once, and the one in the middle has its pixels."""
    found = []
    for stored in WRITERS[name].read(folder):
        number = int(stored["number"])
        found.append(number)
        if len(found) == len(job.delta) // 2:
            for key, value in sample_of(job, number).items():
                if not np.array_equal(value, stored[key]):
                    raise click.ClickException(f"{name}: the {key} of sample {number} is not what was written")
    if sorted(found) != list(range(len(job.delta))):
        raise click.ClickException(f"{name} wrote {len(found)} samples, {len(set(found))} of them different")
    return found


class Written(NamedTuple):
    """What a writer leaves when nobody kills it."""

    bytes: int
    order: list[int]
    files: dict[str, str]


def data_files(folder: Path) -> dict[str, str]:
    """SHA-256 of all files but indexes (which may hold times), by their names."""
    files = (file for file in folder.rglob("*") if file.suffix in {".bin", ".mds", ".tar", ".zstd"})
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def kill(name: str, crew_of: Callable[[], Crew], job: Job, folder: Path, part: float, unkilled: Written) -> str:
    """Kill a writer when ``part`` of the bytes are there, and call it again; what came of it."""
    MADE.value = 0
    folder.mkdir()
    process = multiprocessing.get_context("fork").Process(target=doomed, args=(name, crew_of, job, folder))
    process.start()
    places = (folder, folder.parent / "litdata-cache")
    while process.is_alive() and sum(map(stored_bytes, filter(Path.exists, places))) < part * unkilled.bytes:
        time.sleep(0.001)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    made = MADE.value
    crew = crew_of()
    try:
        WRITERS[name].write(crew, job, folder, True)
    except Exception as error:  # whatever it is, it is the answer
        return f"killed after {made} samples; the same call again fails: {type(error).__name__}: {error}"
    finally:
        crew.dismiss()
    again = MADE.value - made
    found, wrong = [], 0
    for stored in WRITERS[name].read(folder):
        found.append(int(stored["number"]))
        wrong += not all(np.array_equal(value, stored[key]) for key, value in sample_of(job, found[-1]).items())
    order = "the same" if found == unkilled.order else "another"
    files = "the same" if data_files(folder) == unkilled.files else "other"
    return (
        f"killed after {made} of {len(job.delta)} samples; the same call again makes {again}; then there are "
        f"{len(found)}, {len(set(found))} of them different, {wrong} with wrong values, in {order} order and {files} "
        "bytes as without the kill"
    )


def doomed(name: str, crew_of: Callable[[], Crew], job: Job, folder: Path) -> None:
    os.setsid()  # so that the whole group can be killed, and nobody else
    WRITERS[name].write(crew_of(), job, folder, True)


@click.command()
@click.option("--root", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--split", default="train_sample", show_default=True)
@click.option("--labels-dir", default="SegmentationClass", show_default=True)
@click.option("--samples", default=4000, show_default=True, help="Blends that each side writes in a repetition.")
@click.option("--workers", default=2, show_default=True)
@click.option("--repetitions", default=5, show_default=True)
@click.option("--only", multiple=True, help="Only the writers whose name contains this.")
@click.option("--kill", "killing", is_flag=True, help="Kill each writer half-way and call it again, instead.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where all write.  [default: the temporary folder]")
def main(
    root: Path,
    split: str,
    labels_dir: str,
    samples: int,
    workers: int,
    repetitions: int,
    only: tuple[str, ...],
    killing: bool,
    folder: Path | None,
) -> None:
    """Print bytes per sample and samples per second of every writer, then the ratios of ours to each."""
    logging.disable(logging.WARNING)  # mosaicml-streaming's, about folders that it makes itself
    work = Path(tempfile.mkdtemp(dir=folder, prefix="fbind-benchmark-"))
    tempfile.tempdir = str(work)  # merge_index leaves something there
    try:
        clusters_file = work / "clusters.json"
        clusters = build_clusters(root, split, labels_dir, clusters_file)
        recipes = plan_recipes(clusters, CategoryStrategy(), 0)
        samples = min(samples, len(recipes))
        cv2.setNumThreads(1)
        job = decode(clusters, recipes, samples)
        names = [name for name in WRITERS if not only or any(part in name for part in only)]
        out = work / "out"
        crew = Crew(workers, job)

        def write(name: str) -> tuple[Any, int]:
            out.mkdir()
            begin = time.perf_counter()
            WRITERS[name].write(crew, job, out, killing)
            return rate_of(samples, time.perf_counter() - begin), stored_bytes(out)

        def clear() -> None:
            shutil.rmtree(out)
            shutil.rmtree(work / "litdata-cache", ignore_errors=True)

        sizes: dict[str, int] = {}
        for name in names:
            _, sizes[name] = write(name)
            order = check(name, job, out)
            unkilled = Written(sizes[name], order, data_files(out) if killing else {})
            clear()
            for part in KILL_AT if killing else ():
                told = kill(name, lambda: Crew(workers, job), job, out, part, unkilled)
                click.echo(f"{name}: {told}")
                clear()
        if killing:
            return
        click.echo(f"{samples} samples, {workers} processes; samples per second, in brackets until all is on the disk")
        ratios: dict[str, list[float]] = {name: [] for name in names}
        tasks: dict[str, list[float]] = {name: [] for name in names}
        for repetition in range(repetitions):
            got: dict[str, Any] = {}
            for name in ["ours", *names] if repetition % 2 else [*names[::-1], "ours"]:
                os.sync()  # what the side before left to be written must not slow this one
                if name == "ours":
                    got[name] = ours(clusters_file, work / "ours.zarr", samples, 64, workers, work / "cache")
                else:
                    got[name], _ = write(name)
                    clear()
            mine = got.pop("ours")
            click.echo(
                f"{repetition + 1}: ours {mine.rate.done:.0f} [{mine.rate.flushed:.0f}], shard tasks alone "
                f"{mine.tasks:.0f}, {mine.stored / samples / 1000:.0f} kB a sample"
            )
            for name, rate in got.items():
                ratios[name].append(mine.rate.done / rate.done)
                tasks[name].append(mine.tasks / rate.done)
                click.echo(
                    f"   {name} {rate.done:.0f} [{rate.flushed:.0f}], {sizes[name] / samples / 1000:.0f} kB a sample; "
                    f"ratio {ratios[name][-1]:.2f}, of our shard tasks {tasks[name][-1]:.2f}"
                )
        for name in names:
            click.echo(spread(f"ratio to {name}", ratios[name]) + f"; shard tasks {statistics.median(tasks[name]):.2f}")
        crew.dismiss()
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
