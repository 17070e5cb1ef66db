"""Memory of the worker processes of ``fbind materialize-blends`` from beginning to end.

    python benchmarks/memory.py --root VOC --split train_sample --labels-dir SegmentationClassAug --samples 21660

Anonymous memory is what a process has for itself; mapped files (the decoded sources, shared by all workers, and the
libraries) are the page cache's, which gives them up when memory is wanted elsewhere.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import psutil

MIB = 1 << 20


def memory(process: psutil.Process) -> tuple[int, int]:
    """Anonymous memory and mapped files of a process, in bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) << 10, int(fields["RssFile"].split()[0]) << 10


@click.command()
@click.option("--root", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--split", default="train_sample", show_default=True)
@click.option("--labels-dir", default="SegmentationClass", show_default=True)
@click.option("--samples", default=21660, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write.  [default: the temporary folder]")
def main(root: Path, split: str, labels_dir: str, samples: int, workers: int, folder: Path | None) -> None:
    """Print the largest worker's memory in each tenth of the run, and the main process's peak."""
    work = Path(tempfile.mkdtemp(dir=folder, prefix="fbind-benchmark-"))
    command = [sys.executable, "-m", "fbind.cli"]
    try:
        clusters = ["build-clusters", "--root", root, "--split", split, "--labels-dir", labels_dir]
        subprocess.run([*command, *map(str, clusters), "--out", str(work / "c.json")], check=True, stdout=2)
        options = ["--limit", samples, "--workers", workers, "--cache-dir", work / "cache", "--out", work / "b.zarr"]
        begin = ["materialize-blends", "--clusters", work / "c.json", *options]
        process = subprocess.Popen([*command, *map(str, begin)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen: list[tuple[float, int, int]] = []
        main_peak, start = 0, time.perf_counter()
        while process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    seen.append((time.perf_counter() - start, *memory(child)))
                except (OSError, KeyError):  # it has just ended
                    continue
            main_peak = max(main_peak, memory(psutil.Process(process.pid))[0])
            time.sleep(0.1)
        took = time.perf_counter() - start
        times, own, mapped = (np.array(column) for column in zip(*seen, strict=True))
        click.echo(f"{samples} samples, {workers} workers, {took:.0f} s; the largest worker, in MiB")
        for tenth in range(10):
            here = (times >= took * tenth / 10) & (times < took * (tenth + 1) / 10)
            if here.any():
                click.echo(
                    f"{10 * tenth:3d} to {10 * (tenth + 1):3d} %: anonymous {own[here].max() / MIB:6.0f}, "
                    f"mapped files {mapped[here].max() / MIB:6.0f}"
                )
        click.echo(f"main process: anonymous {main_peak / MIB:.0f} at most")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
