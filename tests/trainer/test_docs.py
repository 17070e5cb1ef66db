"""The example in docs/training.md runs as it stands."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from .conftest import write_store

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example
    write_store(tmp_path / "blends.zarr")
    monkeypatch.chdir(tmp_path)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(example[1], {})
    assert re.search(r"phantom against phantom labels: mIoU 0\.\d{3}", output.getvalue())


def test_every_option_of_train_that_the_page_names_exists() -> None:
    from fbind.trainer.commands import compare, evaluate, train

    # --clusters, --out and --strategy are materialize-blends's; --logdir is TensorBoard's, --help click's.
    known = {option for command in (train, evaluate, compare) for p in command.params for option in p.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE.read_text(encoding="utf-8")))
    assert named - known == {"--clusters", "--strategy", "--logdir", "--help"}
