"""What is shipped: the wheel holds every module and nothing else, and the Dockerfile's own steps install it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

FOLDERS = ("cli", "manifests", "pipeline", "trainer")
GENERATED = shutil.ignore_patterns(
    "__pycache__", "*.egg-info", ".git", ".venv", ".hypothesis", ".*_cache", "build", "dist", "demo-output", "runs"
)

SYSTEM_LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libxcb.so.1": "libxcb1",
}
"""Library that OpenCV links: the Debian package that has it (``dpkg -S``)."""
BASE_LIBRARIES = r"^(ld-linux.*|lib(c|m|dl|pthread|rt|z|gcc_s|stdc\+\+))\.so"
"""What every Debian has: glibc, the compiler's runtime and zlib, which dpkg itself needs."""


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def python_first(python: Path) -> str:
    """A PATH on which ``python3`` is the given interpreter's environment."""
    return os.pathsep.join([str(python.parent), os.environ["PATH"]])


@pytest.fixture(scope="module")
def tree(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the checkout, so that building leaves nothing behind in it."""
    return Path(shutil.copytree(checkout, tmp_path_factory.mktemp("package") / "a copy", ignore=GENERATED))


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    """The wheel, by the Dockerfile's step; setuptools is taken from the environment instead of the network."""
    script = tree / "scripts" / "image" / "build-wheel"
    run(script, "dist", "--no-build-isolation", cwd=tree, PATH=python_first(Path(sys.executable)))
    (built,) = (tree / "dist").glob("*.whl")
    return built


def modules_in(tree: Path) -> set[str]:
    """Every module and data file below the four folders, as it should be named in the wheel."""
    return {
        f"fbind/{path.relative_to(tree).as_posix()}"
        for folder in FOLDERS
        for path in (tree / folder).rglob("*")
        if path.suffix in (".py", ".json", ".typed")
    }


def modules_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_module_and_nothing_else(tree: Path, wheel: Path) -> None:
    """Catches a subpackage missing from pyproject.toml, and anything claimed beside the name fbind."""
    assert modules_of(wheel) == modules_in(tree)


def test_the_wheel_holds_schemas(wheel: Path) -> None:
    assert {"fbind/manifests/schemas/clusters.schema.json", "fbind/manifests/schemas/blends.schema.json"} <= modules_of(
        wheel
    )


def test_a_stale_build_folder_does_not_reach_the_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    stale = tree / "build" / "lib" / "fbind" / "trainer" / "long_gone.py"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.touch()
    script = tree / "scripts" / "image" / "build-wheel"
    run(script, tmp_path, "--no-build-isolation", cwd=tree, PATH=python_first(Path(sys.executable)))
    (built,) = tmp_path.glob("*.whl")
    assert modules_of(built) == modules_of(wheel)


def test_the_source_distribution_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, tree, cwd=tree)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (unpacked / "LICENSE").is_file()
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, unpacked, cwd=tmp_path)
    (rebuilt,) = tmp_path.glob("*.whl")
    assert modules_of(rebuilt) == modules_of(wheel)


@pytest.fixture(scope="module")
def installed(tree: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel, click and nothing else, by the Dockerfile's step."""
    home = tmp_path_factory.mktemp("an environment") / "venv"
    venv.create(home, with_pip=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    click = importlib.util.find_spec("click")
    assert click is not None
    assert click.origin is not None
    (site / "click").symlink_to(Path(click.origin).parent)
    script = tree / "scripts" / "image" / "install-wheel"
    result = run(script, wheel.parent, cwd=home, PATH=python_first(home / "bin" / "python3"))
    assert metadata.version("fbind") in result.stdout
    return home / "bin"


def test_the_wheel_installs_and_opens_with_click_alone(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "fbind", "--help", cwd=tmp_path).stdout
    assert "materialize-blends" in shown


def test_the_installed_wheel_is_imported_from_where_it_lies(installed: Path, tmp_path: Path) -> None:
    """And claims no top-level name but fbind: people's own trainer.py stays theirs."""
    code = (
        "import fbind.cli.main as m, importlib.util as u; "
        "print(m.__file__); print([n for n in ('cli', 'manifests', 'pipeline', 'trainer') if u.find_spec(n)])"
    )
    file, claimed = run(installed / "python3", "-c", code, cwd=tmp_path).stdout.splitlines()
    assert Path(file).is_relative_to(installed.parent)
    assert claimed == "[]"


def test_a_bare_install_names_the_extra(installed: Path, tmp_path: Path) -> None:
    """A user of plain ``pip install fbind`` who asks for a command of an extra."""
    result = subprocess.run(
        [installed / "fbind", "train", "--shards", "x", "--run", "y"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 9, result.stderr
    assert re.search(r"needs \w+, which is not installed: pip install 'fbind\[trainer\]'", result.stderr)


@pytest.mark.parametrize("extra", ["pipeline", "trainer"])
def test_an_images_dependencies_resolve(checkout: Path, extra: str) -> None:
    """The Dockerfile's step, stopped short of installing; everything it needs is already here."""
    requirements = extra_requirements(extra)
    headless = any(name.startswith("opencv") for name in requirements) and not is_installed("opencv-python")
    if headless:
        pytest.skip("scripts/setup chose opencv-python-headless here, so pip would look for opencv-python online")
    script = checkout / "scripts" / "image" / "install-dependencies"
    run(script, extra, "--dry-run", "--no-index", cwd=checkout, PATH=python_first(Path(sys.executable)))


def test_the_dependencies_of_an_unknown_extra_are_an_error(checkout: Path) -> None:
    script = checkout / "scripts" / "image" / "install-dependencies"
    result = subprocess.run([script, "piepline", "--dry-run"], cwd=checkout, capture_output=True, text=True)
    assert result.returncode != 0
    assert "no extra 'piepline'; it has pipeline, trainer, cloud, all" in result.stderr


def extra_requirements(extra: str) -> list[str]:
    return [r for r in metadata.requires("fbind") or () if re.search(rf"""extra == ['"]{extra}['"]""", r)]


def is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_extras_keep_the_two_halves_apart() -> None:
    pipeline, trainer = " ".join(extra_requirements("pipeline")), " ".join(extra_requirements("trainer"))
    assert "torch" not in pipeline
    assert "dask" in pipeline
    assert "dask" not in trainer
    assert "opencv" not in trainer
    assert "distributed" not in trainer


def dockerfile(checkout: Path) -> str:
    return (checkout / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")


def test_the_images_do_to_fbind_only_what_is_tested_here(checkout: Path) -> None:
    """Every RUN is a step in scripts/image, or concerns Debian alone."""
    steps = re.findall(r"^RUN +(.*)$", dockerfile(checkout), re.MULTILINE)
    debian = ("apt-get ", "useradd ")
    ours = {step.split()[0] for step in steps if not step.startswith(debian)}
    assert ours == {f"scripts/image/{name}" for name in ("build-wheel", "install-dependencies", "install-wheel")}
    assert {path.name for path in (checkout / "scripts" / "image").iterdir()} == {Path(step).name for step in ours}


def test_the_images_run_as_an_ordinary_user(checkout: Path) -> None:
    stages = re.split(r"^FROM ", dockerfile(checkout), flags=re.MULTILINE)
    final = {stage.split()[2]: stage for stage in stages[1:]}
    for target in ("pipeline", "trainer"):
        assert re.findall(r"^(?:USER|RUN) +(\S+)", final[target], re.MULTILINE)[-1] == "1000:1000"
        assert 'ENTRYPOINT ["fbind"]' in final[target]


def test_the_docker_context_holds_all_that_the_wheel_needs(checkout: Path) -> None:
    lines = (checkout / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[[not line.startswith("#") for line in lines].index(True)] == "*"
    assert kept == {*FOLDERS, "LICENSE", "README.md", "pyproject.toml", "scripts/image"}


def test_the_pipelines_image_has_the_libraries_that_opencv_links(checkout: Path) -> None:
    if sys.platform != "linux" or not is_installed("opencv-python"):
        pytest.skip("needs opencv-python's own wheel for Linux (scripts/setup chose opencv-python-headless here)")
    spec = importlib.util.find_spec("cv2")
    assert spec is not None
    assert spec.origin is not None
    bundled = Path(spec.origin).parents[1] / "opencv_python.libs"
    # From the extension through the wheel's own libraries; what Debian's need in turn, Debian's packages bring.
    todo, linked, foreign = list(Path(spec.origin).parent.glob("cv2*.so")), set(), set()
    assert todo
    while todo:
        for library in needed(todo.pop()):
            if not (bundled / library).exists():
                foreign.add(library)
            elif library not in linked:
                linked.add(library)
                todo.append(bundled / library)
    packages = {
        SYSTEM_LIBRARIES.get(library, f"unknown package of {library}")
        for library in foreign
        if not re.match(BASE_LIBRARIES, library)
    }
    installed = re.search(r"apt-get install --yes --no-install-recommends +(.*?) *&&", dockerfile(checkout))
    assert installed is not None
    assert packages == set(installed[1].split())


def needed(file: Path) -> list[str]:
    """The libraries that an ELF file itself names: its DT_NEEDED entries, read from the dynamic section."""
    data = file.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file"
    offset, entry_size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + i * entry_size) for i in range(count)]
    loads = [(address, size, position) for kind, _, position, address, _, size in headers if kind == 1]
    dynamic = next((position, size) for kind, _, position, _, _, size in headers if kind == 2)
    entries = [struct.unpack_from("<QQ", data, dynamic[0] + i) for i in range(0, dynamic[1], 16)]
    table = next(value for tag, value in entries if tag == 5)
    strings = next(table - address + position for address, size, position in loads if address <= table < address + size)
    starts = [strings + value for tag, value in entries if tag == 1]
    return [data[start : data.index(b"\0", start)].decode() for start in starts]


def test_every_script_is_executable_and_strict(checkout: Path) -> None:
    scripts = [path for path in (*(checkout / "scripts").rglob("*"), checkout / ".ci" / "run") if path.is_file()]
    assert len(scripts) >= 8
    for script in scripts:
        first, *rest = script.read_text(encoding="utf-8").splitlines()
        assert first == "#!/usr/bin/env bash"
        assert "set -euo pipefail" in rest
        assert os.access(script, os.X_OK), script


def test_versions_agree(checkout: Path) -> None:
    """The installed metadata, and the newest entry of the changelog."""
    changelog = (checkout / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert versions[0] == metadata.version("fbind")


def test_sources_parse_with_the_oldest_python(checkout: Path) -> None:
    for folder in FOLDERS:
        for path in (checkout / folder).rglob("*.py"):
            ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 11))
