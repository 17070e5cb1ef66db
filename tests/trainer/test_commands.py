from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fbind.manifests.errors import ConfigError, StoreExistsError
from fbind.trainer.commands import compare, evaluate, train

SMALL = ["--network", "small", "--crop", "32", "--batch", "4", "--steps", "4", "--device", "cpu"]


def run(command: object, *arguments: object) -> str:
    """The output of a command that must succeed; its errors are raised as the front door sees them."""
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(command, words, standalone_mode=False, catch_exceptions=False)  # pyright: ignore[reportArgumentType]
    return result.output


def test_both_stages_baseline_scores_and_comparison(blends: Path, plain: Path, tmp_path: Path) -> None:
    stage1, stage2, baseline = (tmp_path / name for name in ("stage1", "stage2", "plain"))
    output = run(train, "--shards", blends, "--run", stage1, *SMALL, "--log-every", 2)
    assert "step 2/4" in output
    assert "step 4/4" in output
    assert "waiting for data" in output
    assert f"checkpoint: {stage1 / 'checkpoint.pt'}" in output
    start = ["--stage", "denoise", "--init", stage1 / "checkpoint.pt"]
    inherited = [word for word in SMALL if word not in ("--network", "small")]
    with pytest.raises(ConfigError, match=r"--hidden 3 contradicts --init .* has 8: leave --hidden out"):
        run(train, "--shards", plain, "--run", stage2, *inherited, *start, "--hidden", 3)
    run(train, "--shards", plain, "--run", stage2, *inherited, *start)
    run(train, "--shards", plain, "--run", baseline, *SMALL, "--stage", "plain")
    for folder in (stage1, stage2, baseline):
        output = run(evaluate, "--checkpoint", folder / "checkpoint.pt", "--shards", plain, "--out", folder / "m.json")
        assert "mIoU" in output
        assert json.loads((folder / "m.json").read_text())["images"] == 12
    output = run(compare, f"one={stage1}/m.json", f"two={stage2}/m.json", f"base={baseline}/m.json")
    assert "4 + 4" in output
    assert "different images" not in output
    assert "different numbers of samples (steps x batch): one: 16; two: 32; base: 16" in output
    run(evaluate, "--checkpoint", stage1 / "checkpoint.pt", "--shards", blends, "--out", tmp_path / "b.json")
    assert "different images" in run(compare, f"one={stage1}/m.json", f"blends={tmp_path}/b.json")


def test_pictures(blends: Path, plain: Path, tmp_path: Path) -> None:
    run(train, "--shards", blends, "--run", tmp_path / "run", *SMALL)
    for store in (blends, plain):
        folder = tmp_path / store.stem
        start = ["--checkpoint", tmp_path / "run" / "checkpoint.pt", "--shards", store]
        run(evaluate, *start, "--pictures", folder, 2, "--limit", 3)
        assert sorted(path.name for path in folder.iterdir()) == ["00000-scene-0.png", "00001-scene-1.png"]
        picture = np.asarray(Image.open(folder / "00000-scene-0.png").convert("RGB"))
        colors = {tuple(color) for color in picture.reshape(-1, 3)}
        assert (128, 0, 0) in colors  # the true label map: red's colour
        assert (224, 224, 192) in colors  # and void's


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from fbind.trainer import commands\n"
        "cs = commands.train, commands.evaluate, commands.compare\n"
        "outputs = [CliRunner().invoke(c, ['--help']).output for c in cs]\n"
        "assert all('Usage' in output for output in outputs), outputs\n"
        "assert '0.00025 (binding), 2.5e-05 (denoise)' in ' '.join(outputs[0].split()), outputs[0]\n"
        "print([name for name in ('torch', 'zarr', 'matplotlib', 'rich') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr


def test_errors_reach_the_front_door(blends: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either epochs or steps"):
        run(train, "--shards", blends, "--run", tmp_path / "run", *SMALL, "--epochs", 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(StoreExistsError):
        run(train, "--shards", blends, "--run", tmp_path / "other", *SMALL)


def test_compare_wants_names(tmp_path: Path) -> None:
    result = CliRunner().invoke(compare, ["metrics.json"])
    assert result.exit_code == 2
    assert "not NAME=FILE" in result.output
