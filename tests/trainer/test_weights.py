from __future__ import annotations

import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision.models import mobilenet_v3_large, resnet50
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from fbind.manifests.errors import CheckpointError, ConfigError, ResourceError
from fbind.trainer import weights
from fbind.trainer.encoders import ARCHITECTURES, Encoder
from fbind.trainer.weights import WEIGHTS, load_pretrained


def encoder(name: str) -> Encoder:
    return ARCHITECTURES[name].encoder()


def filled(built: Encoder, state: dict[str, torch.Tensor], prefix: str) -> bool:
    own = built.body.state_dict()
    return all(torch.equal(tensor, state[prefix + name]) for name, tensor in own.items())


def test_classification_net_of_torchvision(tmp_path: Path) -> None:
    state = resnet50(weights=None).state_dict()
    # As in weights from before PyTorch 0.4.1: a legacy file without batch norm's counters.
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet50.pth", _use_new_zipfile_serialization=False)
    built = encoder("deeplabv3-resnet50")
    assert load_pretrained(built, "deeplabv3-resnet50", str(tmp_path / "resnet50.pth")).endswith("resnet50.pth")
    assert filled(built, state, "")


@pytest.mark.parametrize("whole", [True, False], ids=["deeplabv3", "classification"])
def test_mobilenet_by_both_names_of_its_layers(tmp_path: Path, whole: bool) -> None:
    model = (
        deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3, aux_loss=True)
        if whole
        else mobilenet_v3_large(weights=None)
    )
    torch.save(model.state_dict(), tmp_path / "w.pth")
    built = encoder("deeplabv3-mobilenet")
    load_pretrained(built, "deeplabv3-mobilenet", str(tmp_path / "w.pth"))
    assert filled(built, model.state_dict(), "backbone." if whole else "features.")


def test_weights_of_another_backbone(tmp_path: Path) -> None:
    torch.save(mobilenet_v3_large(weights=None).state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"w\.pth do not fit .*deeplabv3-resnet50: the file lacks 'conv1\.weight'"
    ):
        load_pretrained(encoder("deeplabv3-resnet50"), "deeplabv3-resnet50", str(tmp_path / "w.pth"))


def test_extra_and_reshaped_tensors(tmp_path: Path) -> None:
    state = mobilenet_v3_large(weights=None).state_dict()
    built = encoder("deeplabv3-mobilenet")
    torch.save(state | {"features.99.weight": torch.zeros(1)}, tmp_path / "extra.pth")
    with pytest.raises(CheckpointError, match=r"also has '99\.weight'"):
        load_pretrained(built, "deeplabv3-mobilenet", str(tmp_path / "extra.pth"))
    torch.save(state | {"features.0.0.weight": torch.zeros(1)}, tmp_path / "shape.pth")
    with pytest.raises(CheckpointError, match=r"has in another shape '0\.0\.weight'"):
        load_pretrained(built, "deeplabv3-mobilenet", str(tmp_path / "shape.pth"))


@pytest.mark.parametrize("name", ["nowhere.pth", "imagnet"])
def test_neither_a_name_nor_a_file(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--weights {name} is neither imagenet, coco, none nor a file"):
        load_pretrained(encoder("deeplabv3-mobilenet"), "deeplabv3-mobilenet", name)


def test_a_checkpoint_of_fbind_as_weights(tmp_path: Path) -> None:
    torch.save({"record": {"format": "fbind.checkpoint"}, "state": {}}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"c\.pt is a checkpoint of fbind.*use --init"):
        load_pretrained(encoder("deeplabv3-mobilenet"), "deeplabv3-mobilenet", str(tmp_path / "c.pt"))


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("content", ["bomb", "truncated", "empty", "list"])
def test_cached_weights_are_never_executed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, legacy: bool
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / Path(WEIGHTS["deeplabv3-mobilenet", "imagenet"].url).name
    cached.parent.mkdir(parents=True)
    held = {"bomb": Bomb(tmp_path / "executed"), "list": [1]}.get(content, {"a": torch.zeros(99)})
    torch.save(held, cached, _use_new_zipfile_serialization=not legacy)
    if content in ("truncated", "empty"):
        cached.write_bytes(cached.read_bytes()[: 200 if content == "truncated" else 0])
    with pytest.raises(
        CheckpointError, match=r"hub/checkpoints/mobilenet.*nothing in the file was.*delete it"
    ) as caught:
        load_pretrained(encoder("deeplabv3-mobilenet"), "deeplabv3-mobilenet", "imagenet")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_small_network_has_no_weights() -> None:
    assert load_pretrained(encoder("small"), "small", "none") == "none"
    with pytest.raises(ConfigError, match="no coco weights for network small"):
        load_pretrained(encoder("small"), "small", "coco")


def test_offline_names_the_file_option_and_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A proxy that nobody answers behind stands in for a machine without network.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ResourceError, match=r"download\.pytorch\.org/models/.*--weights FILE") as caught:
        load_pretrained(encoder("deeplabv3-mobilenet"), "deeplabv3-mobilenet", "imagenet")
    assert isinstance(caught.value.__cause__, URLError)
    assert "\n" not in str(caught.value)


def test_every_pretrained_network_knows_both_names() -> None:
    names = [name for name in ARCHITECTURES if name != "small"]
    assert set(WEIGHTS) == {(name, kind) for name in names for kind in ("imagenet", "coco")}
    assert all(entry.url.startswith("https://") for entry in weights.WEIGHTS.values())
