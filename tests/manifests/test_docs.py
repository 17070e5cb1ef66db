"""The reader in docs/format.md runs as it stands, without fbind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from .conftest import Written


def test_reader_on_the_format_page(written: Written, checkout: Path) -> None:
    page = (checkout / "docs" / "format.md").read_text(encoding="utf-8")
    reader = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert reader
    assert "fbind import" not in reader[1]
    command = [sys.executable, "-c", reader[1], str(written.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    height, width = written.pixels[0].dominant.shape
    assert (
        f"{width}x{height}, δ {written.columns['delta'][0]:.2f}, mean {written.pixels[0].image.mean():.0f}" in lines[0]
    )
