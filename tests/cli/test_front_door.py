"""The command line as people meet it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from fbind.cli.main import COMMANDS, EXTRA_OF, missing_extra

# Python runs a module of this name at its start, in the worker processes too, so a library is missing in all of them.
SITECUSTOMIZE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def fbind(*arguments: str, cwd: Path | None = None, pythonpath: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``fbind`` in a fresh interpreter."""
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "120"}
    if pythonpath is not None:
        environment["PYTHONPATH"] = str(pythonpath)
    code = "from fbind.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, stdin=subprocess.DEVNULL)


def without(library: str, folder: Path) -> Path:
    """A folder for ``pythonpath`` that hides a library."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(library=library))
    return folder


def test_help_lists_every_command_in_order() -> None:
    result = fbind("--help")
    assert result.returncode == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)
    assert "build-clusters, materialize-blends, preview, train, evaluate" in " ".join(result.stdout.split())


def test_version_is_the_distributions() -> None:
    result = fbind("--version")
    assert result.stdout.strip() == f"fbind, version {metadata.version('fbind')}"


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    result = fbind("build-cluster")
    assert result.returncode == 2
    assert "did you mean 'build-clusters'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_command_is_named() -> None:
    result = fbind("frobnicate")
    assert result.returncode == 2
    assert "frobnicate" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_option_is_a_usage_error() -> None:
    result = fbind("build-clusters", "--no-such-option")
    assert result.returncode == 2
    assert "--no-such-option" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = fbind(name, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"Usage: fbind {name} ")


def test_an_error_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    result = fbind("inspect", str(tmp_path / "nowhere.zarr"))
    assert result.returncode not in (0, 1, 2)
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert "nowhere.zarr" in result.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = fbind("--debug", "inspect", str(tmp_path / "nowhere.zarr"))
    assert result.returncode != 0
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_of_the_system_is_one_line_too(debug: bool) -> None:
    # Stands for whatever no command foresaw: no file can have this name, and Python 3.11 raises when asked for it.
    code = (
        "import sys, click; from fbind.cli import main\n"
        "def fail(*_, **__): open('n' * 300)\n"
        "main.LazyGroup.invoke = fail\n"
        "main.main()"
    )
    flags = ["--debug"] if debug else []
    result = subprocess.run([sys.executable, "-c", code, *flags, "inspect", "x"], capture_output=True, text=True)
    if debug:
        assert "Traceback" in result.stderr
    else:
        assert result.returncode == 6
        assert result.stderr == f"error: {'n' * 300}: File name too long\n"


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset and its clusters, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("dataset")
    made = fbind("make-shapes", "shapes", "--images", "6", "--val", "2", "--size", "48", "--seed", "1", cwd=folder)
    assert made.returncode == 0, made.stderr
    built = fbind(
        *("build-clusters", "--root", "shapes", "--split", "train", "--labels-dir", "SegmentationClass"),
        *("--workers", "1", "--out", "clusters.json"),
        cwd=folder,
    )
    assert built.returncode == 0, built.stderr
    return folder / "clusters.json"


@pytest.mark.parametrize("library", ["dask", "distributed", "cv2"])
def test_blending_without_the_pipeline_extra_names_the_pip_command(
    clusters: Path, tmp_path: Path, library: str
) -> None:
    out = tmp_path / "blends.zarr"
    arguments = ("materialize-blends", "--clusters", str(clusters), "--out", str(out), "--workers", "1")
    result = fbind(*arguments, pythonpath=without(library, tmp_path / "hidden"))
    assert result.returncode == 9, result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        f"error: `fbind materialize-blends` needs {library}, which is not installed: pip install 'fbind[pipeline]'"
    ]
    assert "Traceback" not in result.stderr


def test_training_without_the_trainer_extra_names_the_pip_command(tmp_path: Path) -> None:
    arguments = ("train", "--shards", str(tmp_path), "--run", str(tmp_path / "run"), "--network", "small")
    result = fbind(*arguments, pythonpath=without("torch", tmp_path / "hidden"))
    assert result.returncode == 9, result.stderr
    assert result.stderr == "error: `fbind train` needs torch, which is not installed: pip install 'fbind[trainer]'\n"


def test_a_missing_module_of_fbind_itself_is_a_bug_not_an_extra() -> None:
    assert missing_extra(ModuleNotFoundError(name="fbind.trainer.gone"), "train", "trainer") is None


def test_a_command_of_both_extras_asks_for_both() -> None:
    error = missing_extra(ModuleNotFoundError(name="torchvision.datasets"), "fetch-voc", "all")
    assert str(error).endswith("pip install 'fbind[all]'")


def test_a_library_of_both_extras_is_the_commands_own() -> None:
    error = missing_extra(ModuleNotFoundError(name="PIL.Image"), "preview", "pipeline")
    assert str(error).endswith("pip install 'fbind[pipeline]'")


def test_extras_are_those_of_the_distribution() -> None:
    extras = set(metadata.metadata("fbind").get_all("Provides-Extra") or ())
    assert set(EXTRA_OF.values()) | {extra for _, extra, _ in COMMANDS.values()} <= extras


def test_a_reader_that_leaves_is_not_an_error() -> None:
    result = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -c "from fbind.cli.main import main; main()" --help | true'],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert result.stderr == ""
