"""Measuring an encoder on shards whose vocabulary is not that of the shards it is probed on."""

import tarfile
from pathlib import Path

import numpy as np
import torch
from tiny import write_images, write_objects

from viewfold.jobs.evaluate import EvaluateConfig, freeze, measure, translated
from viewfold.pipeline.manifest import index_shards
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.evaluate import PairProbeConfig


def small_encoder() -> Encoder:
    torch.manual_seed(0)
    preprocessing = Preprocessing(image_size=32)
    return Encoder(EncoderConfig(backbone="resnet-small", equivariant_dim=64, preprocessing=preprocessing)).eval()


def test_indices_are_translated_by_name() -> None:
    indices = np.array([0, 1, 2, -1])
    assert translated(indices, ["bird", "cat", "dog"], ["ant", "cat", "bird"]).tolist() == [2, 1, 3, -1]


def test_the_same_images_under_a_smaller_vocabulary_are_still_recognised(tmp_path: Path) -> None:
    everything = index_shards(write_images(tmp_path / "all", samples=24, labels=3), tmp_path / "all")
    some = [row for row in range(24) if everything.label[row] == 2]
    # The class of index 2 alone is index 0 in a manifest of its own.
    only = tmp_path / "only" / "only.tar"
    only.parent.mkdir()
    with tarfile.open(only, "w") as out:
        for shard in sorted((tmp_path / "all").glob("*.tar")):
            with tarfile.open(shard) as tar:
                for member in tar:
                    if any(member.name.startswith(f"{everything.samples.key(row)}.") for row in some):
                        out.addfile(member, tar.extractfile(member))
    alone = index_shards([only], tmp_path / "only")
    assert len(alone.labels) == 1
    assert len(everything.labels) == 3
    top1 = measure(small_encoder(), everything, alone, EvaluateConfig(k=1))[0]
    assert top1.value == 1.0


def test_objects_with_poses_get_a_rotation_measure_and_others_none(tmp_path: Path) -> None:
    objects = index_shards(write_objects(tmp_path / "objects", objects=12, views=4), tmp_path / "objects")
    images = index_shards(write_images(tmp_path / "images"), tmp_path / "images")
    config = EvaluateConfig(k=1, pairs_per_object=4, probe=PairProbeConfig(hidden=8, steps=5))
    encoder = small_encoder()
    assert "rotation/r2" in {m.name for m in measure(encoder, objects, objects, config)}
    assert "rotation/r2" not in {m.name for m in measure(encoder, images, images, config)}


def test_every_stored_image_is_a_row(tmp_path: Path) -> None:
    objects = index_shards(write_objects(tmp_path, objects=5, views=4), tmp_path)
    frozen = freeze(small_encoder(), objects, batch_size=7)
    assert frozen.sample.tolist() == np.repeat(np.arange(5), 4).tolist()
    assert len(frozen.features.all) == 20
    assert frozen.latents is not None
    assert frozen.latents.shape == (20, 7)
