"""Who may import whom. Read from the sources, imports inside functions included, and checked once more by importing."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from fbind.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
FOLDERS = ("cli", "manifests", "pipeline", "trainer")
MAX_LINES = 400

ALLOWED_FOLDERS = {
    "cli": {"cli", "manifests"},
    "manifests": {"manifests"},
    "pipeline": {"pipeline", "manifests"},
    "trainer": {"trainer", "manifests"},
}
TORCH = {"torch", "torchvision", "torchmetrics", "tensorboard"}
DASK = {"dask", "distributed"}
FORBIDDEN = {
    "cli": TORCH | DASK | {"cv2", "numpy", "zarr", "pydantic", "PIL", "matplotlib"},
    "manifests": TORCH | DASK | {"PIL", "matplotlib"},
    "pipeline": TORCH,
    "trainer": DASK | {"cv2"},
}
EXCEPTIONS = {("pipeline/sources/fetch.py", "torchvision")}
"""(file, library): fetching a dataset uses torchvision's downloaders."""


class Import(NamedTuple):
    """One imported module: its absolute dotted name, as written or resolved."""

    file: str
    line: int
    module: str
    relative: bool
    top_level: bool

    @property
    def library(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file; ``from x import y`` counts as x and as x.y, since y may be a module."""
    file = path.relative_to(ROOT).as_posix()
    package = ["fbind", *path.relative_to(ROOT).parent.parts]
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=file)
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(file, node.lineno, name.name, False, id(node) not in inner)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for name in node.names:
                yield Import(file, node.lineno, f"{module}.{name.name}", node.level > 0, id(node) not in inner)


ALL = [found for folder in FOLDERS for path in sources(folder) for found in imports_of(path)]


def test_the_parser_sees_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "pipeline" / "sources" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text("import dask\nfrom ...trainer import losses\nfrom .voc import a\ndef f():\n    import cv2.dnn\n")
    assert [(i.module, i.relative, i.top_level) for i in imports_of(file)] == [
        ("dask", False, True),
        ("fbind.trainer.losses", True, True),
        ("fbind.pipeline.sources.voc.a", True, True),
        ("cv2.dnn", False, False),
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_go_one_way(folder: str) -> None:
    """pipeline -> manifests <- trainer."""
    wrong = [
        str(found)
        for found in ALL
        if found.file.startswith(folder + "/")
        and found.library == "fbind"
        and found.module.split(".")[1] not in ALLOWED_FOLDERS[folder]
    ]
    assert not wrong


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_stays_clear_of_the_others_libraries(folder: str) -> None:
    wrong = [
        str(found)
        for found in ALL
        if found.file.startswith(folder + "/")
        and found.library in FORBIDDEN[folder]
        and (found.file, found.library) not in EXCEPTIONS
    ]
    assert not wrong


def test_imports_inside_the_folders_are_relative() -> None:
    assert not [str(found) for found in ALL if found.library in {"fbind", *FOLDERS} and not found.relative]


def files_that_import(*modules: str) -> set[str]:
    return {f.file for f in ALL if any(f.module == m or f.module.startswith(m + ".") for m in modules)}


def test_the_engine_is_imported_in_one_package() -> None:
    files = files_that_import(*DASK)
    assert files
    assert not {file for file in files if not file.startswith("pipeline/scheduler/")}


def test_process_groups_are_imported_in_one_module() -> None:
    assert len(files_that_import("torch.distributed")) <= 1


def test_torchvision_downloads_are_imported_lazily() -> None:
    used = [found for found in ALL if (found.file, found.library) in EXCEPTIONS]
    assert used, "no exception is needed any more: remove it from EXCEPTIONS"
    assert not [str(found) for found in used if found.top_level]


def test_the_contract_imports_opencv_only_to_blend() -> None:
    used = [found for found in ALL if found.file.startswith("manifests/") and found.library == "cv2"]
    assert {found.file for found in used} == {"manifests/blending.py"}
    assert not [str(found) for found in used if found.top_level]


def test_the_front_door_imports_almost_nothing() -> None:
    libraries = {f.library for f in ALL if f.file.startswith("cli/") and f.top_level and not f.relative}
    assert libraries <= sys.stdlib_module_names | {"click"}
    own = {f.module for f in ALL if f.file.startswith("cli/") and f.top_level and f.relative}
    assert all(module.startswith(("fbind.manifests.errors.", "fbind.cli.")) for module in own)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_outgrows_its_noun(folder: str) -> None:
    """A module of more lines than this has a second noun in it; look for the seam."""
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in sources(folder)}
    assert not {file: lines for file, lines in lengths.items() if lines > MAX_LINES}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_what_the_front_door_says(name: str) -> None:
    target, extra, short = COMMANDS[name]
    module, _, function = target.partition(":")
    command = getattr(importlib.import_module(module), function)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert (command.help or "").split()[:1] == short.split()[:1]
    package = module.split(".")[1]
    assert extra in {package, "all"}


def loaded_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running some code."""
    script = f"import json, sys\n{code}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {module.partition(".")[0] for module in json.loads(result.stdout.splitlines()[-1])}


def import_all(*folders: str) -> str:
    modules = [
        ".".join(("fbind", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for folder in folders
        for path in sources(folder)
    ]
    return "\n".join(f"import {module}" for module in modules if not module.endswith(".__main__"))


def test_the_contract_loads_no_engine() -> None:
    assert not loaded_after(import_all("manifests")) & (FORBIDDEN["manifests"] | {"cv2"})


def test_the_pipeline_loads_no_torch() -> None:
    assert not loaded_after(import_all("pipeline")) & TORCH


def test_the_trainer_loads_neither_dask_nor_opencv() -> None:
    assert not loaded_after(import_all("trainer")) & (DASK | {"cv2"})


def test_help_is_quick() -> None:
    """``fbind --help`` stays under 0.3 s; counted in libraries, since a busy machine's clock proves nothing."""
    loaded = loaded_after(
        "from fbind.cli.main import cli\nassert cli.main(['--help'], standalone_mode=False) in (0, None)"
    )
    assert "click" in loaded
    assert not loaded & (FORBIDDEN["cli"] | {"rich", "scipy", "psutil"})
