"""Two encoders are measured on the same rows by the same draws, whatever data each was trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import write_images, write_objects

from viewfold.errors import InvalidInput
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.gates_data import unseen
from viewfold.jobs.gates_measure import MEASURES, Seer, measured
from viewfold.jobs.gates_rules import Found, Missing
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.evaluate import Measure, PairProbeConfig, difference

QUICK = EvaluateConfig(k=3, pairs_per_object=4, probe=PairProbeConfig(hidden=8, steps=5))


def encoder(seed: int = 0, equivariant_dim: int = 64) -> Encoder:
    torch.manual_seed(seed)
    preprocessing = Preprocessing(image_size=16)
    config = EncoderConfig(backbone="resnet-small", equivariant_dim=equivariant_dim, preprocessing=preprocessing)
    return Encoder(config).eval()


def found(seer: Seer, queries: ShardManifest) -> dict[str, Found]:
    return measured(seer, queries, MEASURES, QUICK, precision_k=7, shift_images=8)


def test_every_gate_has_its_measure(tmp_path: Path) -> None:
    objects = index_shards(write_objects(tmp_path, objects=6, views=3), tmp_path)
    seen = found(Seer.of(encoder(), objects), objects)
    names = {gate: one.name for gate, one in seen.items() if isinstance(one, Measure)}
    assert names == {
        "knn": "knn3/top1",
        "precision": "precision7",
        "rotation_r2": "equivariant/rotation/r2",
        "effective_rank": "effective_rank",
        "shift_consistency": "shift/consistency",
    }


def test_draws_lie_side_by_side_whatever_the_training_data_call_the_groups(tmp_path: Path) -> None:
    everything = index_shards(write_images(tmp_path, samples=24, domains=3), tmp_path)
    queries, train = everything.subset(domains=["style-2"]), everything.subset(without_domains=["style-2"])
    # Things that the first knows under other numbers, which the second has never seen.
    renamed = [
        replace(train, groups=names) for names in (train.groups[::-1], tuple(f"new {one}" for one in train.groups))
    ]
    first, second = (found(Seer.of(encoder(), one), queries) for one in renamed)
    for gate in ("knn", "precision", "shift_consistency"):
        one, two = first[gate], second[gate]
        assert isinstance(one, Measure)
        assert isinstance(two, Measure)
        assert one.draws is not None
        assert one.draws == two.draws
        assert difference(one.interval, two.interval)[:3] == (0.0, 0.0, 0.0)
    assert first["rotation_r2"] == Missing("the data records no latent_0, latent_1, latent_2")


def test_what_was_trained_on_since_is_known_by_its_shard_and_not_by_its_name_alone(tmp_path: Path) -> None:
    images = index_shards(write_images(tmp_path, samples=24, domains=2), tmp_path)
    other = index_shards(write_images(tmp_path / "other", samples=24, domains=2, seed=1), tmp_path / "other")
    held = images.subset(domains=["style-1"])
    assert images.key(3) == other.key(3)
    for train, left in (
        (images, 0),
        (images.subset(domains=["style-0"]), 12),
        (other, 12),
        (images.take(np.arange(4)), 10),
    ):
        assert len(unseen(held, train)) == left


def test_an_encoder_that_diverged_is_told_from_data_that_show_nothing(tmp_path: Path) -> None:
    images = index_shards(write_images(tmp_path), tmp_path)
    good, bad = encoder(0, 0), encoder(0, 0)
    with torch.no_grad():
        for weights in bad.parameters():
            weights.fill_(torch.nan)
    with pytest.raises(InvalidInput, match="nan or infinite"):
        Seer.of(bad, images)
    seer = Seer.of(good, images)
    assert found(seer, images)["rotation_r2"] == Missing("the encoder has no equivariant part")
    broken = found(Seer(bad, images, seer.known), images)
    assert all(isinstance(one, Missing) and one.broken for one in broken.values())
