"""Adapters: they begin as the identity, belong to the encoder's folder, and learn alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from viewfold.config import dump, parse
from viewfold.errors import InvalidInput
from viewfold.ssl.adapter import Adapter, AdapterConfig
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, load_encoder, save_encoder

BASE = EncoderConfig(backbone="test_resnet", preprocessing=Preprocessing(image_size=32))
IMAGES = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "config",
    [AdapterConfig(width=8), AdapterConfig(width=0), AdapterConfig(kind="linear")],
    ids=["wide", "0", "linear"],
)
def test_an_adapter_begins_as_the_identity_bit_for_bit(config: AdapterConfig) -> None:
    torch.manual_seed(0)
    encoder = Encoder(BASE).eval()
    before = encoder.encode(IMAGES).all
    encoder.add_adapter(config)
    assert torch.equal(encoder.encode(IMAGES).all, before)
    assert (encoder.dim, encoder.config.adapter) == (encoder.base_dim, config)


def test_a_residual_adapter_adds_what_its_layers_make() -> None:
    torch.manual_seed(0)
    adapter = Adapter(AdapterConfig(width=3), 4).double()
    assert adapter.down is not None
    torch.nn.init.normal_(adapter.up.weight)
    x = torch.randn(2, 4, dtype=torch.float64)
    hidden = x @ adapter.down.weight.T + adapter.down.bias
    gelu = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(adapter(x), x + gelu @ adapter.up.weight.T + adapter.up.bias)


def test_a_head_of_fewer_features_is_a_rotation_of_some() -> None:
    torch.manual_seed(0)
    encoder = Encoder(replace(BASE, adapter=AdapterConfig(kind="linear", dim=6)))
    assert encoder.adapter is not None
    rows = encoder.adapter.up.weight
    torch.testing.assert_close(rows @ rows.T, torch.eye(6))
    assert encoder.encode(IMAGES).invariant.shape == (5, 6)


def test_features_of_the_backbone_go_through_the_adapter_alone() -> None:
    torch.manual_seed(0)
    encoder = Encoder(replace(BASE, adapter=AdapterConfig(width=8))).eval()
    assert encoder.adapter is not None
    torch.nn.init.normal_(encoder.adapter.up.weight)
    images = IMAGES / 255
    assert torch.equal(encoder(encoder.base(images)), encoder(images))


def test_an_adapted_encoder_is_an_ordinary_folder_and_older_folders_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(replace(BASE, adapter=AdapterConfig(width=8))).eval()
    assert encoder.adapter is not None
    torch.nn.init.normal_(encoder.adapter.up.weight)
    identity = save_encoder(encoder, tmp_path / "encoder", lineage={})
    loaded = load_encoder(tmp_path / "encoder")
    assert (loaded.id, loaded.config) == (identity, encoder.config)
    assert torch.equal(loaded.encode(IMAGES).all, encoder.encode(IMAGES).all)
    older: dict[str, Any] = dump(BASE)
    del older["adapter"]  # as it was written before there were adapters
    assert parse(EncoderConfig, older) == BASE


def test_an_adapter_would_mix_the_equivariant_part() -> None:
    with pytest.raises(InvalidInput, match="maps all features together"):
        Encoder(replace(BASE, equivariant_dim=4, adapter=AdapterConfig()))
    for bad in ({"dim": 3}, {"kind": "linear", "width": 3}, {"width": -1}):
        with pytest.raises(InvalidInput):
            parse(AdapterConfig, bad)
