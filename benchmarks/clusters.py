"""``fbind build-clusters`` against merely decoding the same label maps with as many processes.

    python benchmarks/clusters.py --root VOC2012 --labels-dir SegmentationClassAug --splits train_aug val

Both are timed as a user meets them, as fresh processes from start to exit, alternating, so that whatever else the
machine does falls on both. The decoder is the cheapest there is: ``np.asarray(Image.open(path))`` in forked workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUDGET = 1.5
"""build-clusters may take this many times as long as decoding."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a VOC root")
    parser.add_argument("--labels-dir", default="SegmentationClass")
    parser.add_argument("--splits", nargs="+", default=["trainval"], help="lists whose union is counted")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--decode-list", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.decode_list:
        decode_all(options.decode_list.read_text().split("\n"), options.workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    labels = folder / options.labels_dir
    labels.symlink_to((options.root / options.labels_dir).resolve())
    listed = (options.root / "ImageSets" / "Segmentation" / f"{split}.txt" for split in options.splits)
    ids = list(dict.fromkeys(image_id for path in listed for image_id in path.read_text().split()))
    (lists / "union.txt").write_text("\n".join(ids))
    paths = folder / "paths.txt"
    paths.write_text("\n".join(str(labels / f"{image_id}.png") for image_id in ids))

    workers = ["--workers", str(options.workers)]
    build = [sys.executable, "-c", "from fbind.cli.main import main; main()", "build-clusters", "--root", str(folder),
             "--split", "union", "--labels-dir", options.labels_dir, "--out", str(folder / "clusters.json"),
             "--overwrite", *workers]  # fmt: skip
    decode = [sys.executable, __file__, "--root", str(folder), "--decode-list", str(paths), *workers]
    commands = {"decode": decode, "build-clusters": build}
    for command in commands.values():
        timed(command)  # fills the page cache and the bytecode caches
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.repeats):
        for name, command in commands.items():
            times[name].append(timed(command))
    print(f"{len(ids):,} label maps, {options.workers} workers, {options.repeats} repetitions")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name:15} {median:6.2f} s ({spread})  {1e3 * median / len(ids):.3f} ms per label map")
    ratios = sorted(b / d for b, d in zip(times["build-clusters"], times["decode"], strict=True))
    median = statistics.median(ratios)
    print(f"ratio           {median:6.2f}   ({ratios[0]:.2f} to {ratios[-1]:.2f}), budget {BUDGET}")


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def decode_all(paths: list[str], workers: int) -> None:
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for _ in pool.imap_unordered(decode, paths, chunksize=128):
            pass


def decode(path: str) -> int:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path)).size


if __name__ == "__main__":
    main()
