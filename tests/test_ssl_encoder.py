import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from viewfold.config import dump, parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.ssl.encoder import (
    Encoder,
    EncoderConfig,
    Preprocess,
    Preprocessing,
    load_encoder,
    probe_images,
    save_encoder,
)

SMALL = EncoderConfig(equivariant_dim=56, preprocessing=Preprocessing(image_size=32))


def built(config: EncoderConfig = SMALL, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(config)


def some_images(num_images: int = 5, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num_images, 3, size, size), dtype=torch.uint8, generator=generator)


def rewrite(folder: Path, change: dict[str, Any]) -> None:
    """Change fields of encoder.json and give it the id that belongs to the new content."""
    path = folder / "encoder.json"
    body = json.loads(path.read_text()) | change
    del body["id"]
    identity = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    path.write_text(json.dumps({"id": identity, **body}))


def test_parts_split_the_features() -> None:
    encoder = built()
    features = encoder.encode(some_images())
    assert encoder.dim == 256
    assert features.invariant.shape == (5, 200)
    assert features.equivariant.shape == (5, 56)
    torch.testing.assert_close(torch.cat([features.invariant, features.equivariant], dim=1), features.all)


def test_without_equivariant_dim_all_is_invariant() -> None:
    features = built(replace(SMALL, equivariant_dim=0)).encode(some_images())
    assert features.equivariant.shape == (5, 0)
    assert torch.equal(features.invariant, features.all)


def test_bytes_and_unit_floats_are_the_same_images() -> None:
    encoder, images = built(), some_images()
    assert torch.equal(encoder.encode(images).all, encoder.encode(images.float() / 255).all)


def test_encode_ignores_batch_size_and_restores_training_mode() -> None:
    encoder, images = built().train(), some_images()
    torch.testing.assert_close(encoder.encode(images, batch_size=2).all, encoder.encode(images).all)
    assert encoder.training
    assert encoder.encode(images[:0]).all.shape == (0, 256)


def test_other_sizes_are_resized() -> None:
    encoder = built()
    flat = torch.full((1, 3, 50, 70), 0.25)
    torch.testing.assert_close(encoder.encode(flat).all, encoder.encode(flat[:, :, :32, :32]).all)


def test_channels_are_standardised_by_fixed_numbers() -> None:
    preprocess = Preprocess(Preprocessing(image_size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125)))
    ready = preprocess(torch.full((1, 3, 32, 32), 0.6))
    torch.testing.assert_close(ready[0, :, 0, 0], torch.tensor([1.0, 1.6, 2.4]))


def test_grey_is_luma() -> None:
    preprocess = Preprocess(Preprocessing(image_size=32, grey=True, standardise="none"))
    pixel = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    torch.testing.assert_close(preprocess(pixel), torch.full((1, 1, 32, 32), 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.8))


@pytest.mark.parametrize("grey", [False, True])
def test_standardised_image_ignores_gain_and_offset(grey: bool) -> None:
    preprocess = Preprocess(Preprocessing(image_size=32, grey=grey, standardise="image"))
    images = some_images().float() / 255
    torch.testing.assert_close(preprocess(0.4 * images + 0.3), preprocess(images), rtol=1e-4, atol=1e-4)
    assert not preprocess(torch.full((1, 3, 32, 32), 0.7)).any()


def test_loaded_encoder_is_the_saved_one(tmp_path: Path) -> None:
    encoder, images = built(), some_images()
    encoder.train()(images / 255)  # running statistics are part of it
    identity = save_encoder(encoder, tmp_path / "encoder", lineage={"run": "r1"})
    torch.manual_seed(7)
    before = torch.get_rng_state()
    loaded = load_encoder(tmp_path / "encoder")
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.id == identity
    assert loaded.config == SMALL
    assert not loaded.training
    assert torch.equal(loaded.encode(images).all, encoder.encode(images).all)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["encoder", "encoder.json", "encoder.safetensors"]


def test_identity_follows_weights_and_lineage(tmp_path: Path) -> None:
    def saved(seed: int, run: str) -> str:
        return save_encoder(built(seed=seed), tmp_path / "encoder", lineage={"run": run})

    assert saved(0, "r1") == saved(0, "r1")
    assert len({saved(0, "r1"), saved(1, "r1"), saved(0, "r2")}) == 3


@pytest.mark.parametrize("name", ["encoder.safetensors", "encoder.json"])
def test_changed_files_are_refused(tmp_path: Path, name: str) -> None:
    save_encoder(built(), tmp_path, lineage={"run": "r1"})
    data = bytearray((tmp_path / name).read_bytes())
    place = data.rindex(b"r1") if name.endswith("json") else len(data) // 2
    data[place] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ArtifactMismatch, match="its files are not those of encoder"):
        load_encoder(tmp_path)


def test_other_features_than_where_it_was_saved_are_refused(tmp_path: Path) -> None:
    save_encoder(built(), tmp_path, lineage={})
    probes = json.loads((tmp_path / "encoder.json").read_text())["probes"]
    probes[1]["features"] = [-x for x in probes[1]["features"]]
    rewrite(tmp_path, {"probes": probes})
    with pytest.raises(ArtifactMismatch, match=r"probe 1: cosine -1\.0"):
        load_encoder(tmp_path)
    load_encoder(tmp_path, verify=False)


def test_other_architecture_than_the_weights_is_refused(tmp_path: Path) -> None:
    save_encoder(built(), tmp_path, lineage={})
    rewrite(tmp_path, {"architecture": dump(replace(SMALL, backbone="resnet-medium"))})
    with pytest.raises(ArtifactMismatch, match="do not fit this version"):
        load_encoder(tmp_path)


def test_what_is_no_encoder_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"encoder\.json: no such file"):
        load_encoder(tmp_path)
    save_encoder(built(), tmp_path, lineage={})
    rewrite(tmp_path, {"format": 2})
    with pytest.raises(InvalidInput, match="encoder format 2, this version reads 1"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text("{")
    with pytest.raises(ArtifactMismatch, match="not JSON"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text("[1]")
    with pytest.raises(ArtifactMismatch, match="not a JSON object"):
        load_encoder(tmp_path)


def test_probe_images_never_change() -> None:
    digest = hashlib.sha256(probe_images(64).numpy().tobytes()).hexdigest()
    assert digest[:16] == "ac5dadc2550d3c63"


def test_impossible_architectures_are_refused() -> None:
    with pytest.raises(InvalidInput, match="equivariant_dim 300 is more than the 256 features"):
        Encoder(EncoderConfig(equivariant_dim=300))
    with pytest.raises(InvalidInput, match="backbone 'vit_tiny_patch16_224' does not take 8 px images"):
        Encoder(EncoderConfig(backbone="vit_tiny_patch16_224", preprocessing=Preprocessing(image_size=8)))
    with pytest.raises(InvalidInput, match=r"preprocessing: std must be above 0 .* got \(1\.0, 0\.0, 1\.0\)"):
        parse(EncoderConfig, {"preprocessing": {"std": [1, 0, 1]}})
    for field in ("mean", "std"):
        with pytest.raises(InvalidInput, match=f"{field} must be .*finite"):
            parse(EncoderConfig, {"preprocessing": {field: [1, math.nan, 1]}})
