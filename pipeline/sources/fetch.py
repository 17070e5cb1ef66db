"""Fetching PASCAL VOC 2012 and SBD with torchvision's downloaders, into a root that ``--root`` takes as it is.

Archives go to ``OUT/downloads`` and stay there; whoever has no network puts them there by hand. What they hold is
moved to its place only when it has been unpacked completely, and the file that makes a root (or its augmented part)
usable comes last, so an interrupted run is never taken for a finished one and running again continues.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import tarfile
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

from ...manifests.base import unwritable
from ...manifests.errors import ResourceError, StoreExistsError
from .classes import CLASSES_FILE
from .sbd import AUGMENTED_DIR, AUGMENTED_SPLIT, convert_sbd
from .voc import SPLITS_DIR

DOWNLOADS = "downloads"
TIMEOUT_SECONDS = 30.0

VOC_ARCHIVE = "VOCtrainval_11-May-2012.tar"
SBD_ARCHIVE = "benchmark.tgz"
SBD_PARTS = ("cls", "img", "inst", "train.txt", "val.txt")
"""What torchvision moves out of SBD's archive, each with one rename once the whole archive is unpacked."""


def fetch_voc(out: Path) -> bool:
    """Make ``out`` a VOC 2012 root; returns whether there was anything to do.

    Raises :class:`StoreExistsError` when ``out`` holds something else, and :class:`ResourceError` when the archive
    can't be reached, is damaged, or can't be written.
    """
    if (out / CLASSES_FILE).exists():
        raise StoreExistsError(f"{out} is another dataset (it has a {CLASSES_FILE}): give an empty or a new folder")
    if (out / SPLITS_DIR / "train.txt").exists():
        return False
    downloads = out / DOWNLOADS
    unpacked = downloads / "VOCdevkit" / "VOC2012"
    try:
        others = out.is_dir() and not unpacked.parent.exists() and any(p.name != DOWNLOADS for p in out.iterdir())
        if others or (out.exists() and not out.is_dir()):
            raise StoreExistsError(f"{out} is already there and is no VOC root: give an empty or a new folder")
    except OSError as error:
        raise unwritable(out, error) from error

    from torchvision.datasets import VOCSegmentation

    with _network_errors("PASCAL VOC 2012", VOC_ARCHIVE, downloads):
        VOCSegmentation(downloads, year="2012", image_set="train", download=True)
    try:
        # The lists last: a root without them is not taken for one.
        for path in sorted(unpacked.iterdir(), key=lambda path: path.name == SPLITS_DIR.partition("/")[0]):
            target = out / path.name
            if target.exists():  # moved by a run that was interrupted between two of these
                shutil.rmtree(path)
            else:
                path.rename(target)
        shutil.rmtree(unpacked.parent)
    except OSError as error:
        raise unwritable(out, error) from error
    return True


def fetch_sbd(out: Path, progress: Callable[[int, int], object] | None = None) -> bool:
    """Add SBD to the VOC root ``out`` (see :func:`~.sbd.convert_sbd`); returns whether there was anything to do.

    Raises :class:`ResourceError` when the archive can't be reached, is damaged, or can't be written, and what
    :func:`~.sbd.convert_sbd` raises.
    """
    if (out / SPLITS_DIR / f"{AUGMENTED_SPLIT}.txt").exists() and (out / AUGMENTED_DIR).is_dir():
        return False
    # Before the download, not after it: torchvision reports a missing scipy as a RuntimeError.
    import scipy.io  # noqa: F401
    from torchvision.datasets import SBDataset

    downloads = out / DOWNLOADS
    if not all((downloads / part).exists() for part in SBD_PARTS):
        _remove_unpacked_sbd(downloads)  # torchvision refuses to move over what an interrupted run left
        with _network_errors("SBD", SBD_ARCHIVE, downloads):
            SBDataset(downloads, image_set="train", mode="segmentation", download=True)
    convert_sbd(downloads, out, progress)
    _remove_unpacked_sbd(downloads)
    return True


def _remove_unpacked_sbd(downloads: Path) -> None:
    for name in ("benchmark_RELEASE", *SBD_PARTS):
        path = downloads / name
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error


@contextlib.contextmanager
def _network_errors(dataset: str, archive: str, downloads: Path) -> Iterator[None]:
    """Translate what torchvision's downloaders raise, and don't wait for ever on a network that swallows packets."""
    by_hand = f"download {archive} elsewhere, put it into {downloads}/ and run this again"
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    except urllib.error.HTTPError as error:
        raise ResourceError(
            f"can't download {dataset}: {error.url} answered {error.code} {error.reason}; try again later, or {by_hand}"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise ResourceError(
            f"can't download {dataset}: its server can't be reached, this machine seems to be offline ({reason}); "
            f"{by_hand}"
        ) from error
    except (RuntimeError, EOFError, tarfile.TarError) as error:
        raise ResourceError(
            f"the archive of {dataset} is damaged or incomplete ({error}): remove {archive} from {downloads}/ and run "
            "this again"
        ) from error
    except OSError as error:
        raise unwritable(downloads, error) from error
    finally:
        socket.setdefaulttimeout(timeout)
