"""Measuring an encoder on shards whose vocabulary is not that of the shards it is probed on."""

import tarfile
from pathlib import Path

import numpy as np
import torch
from tiny import write_images, write_objects

from viewfold.jobs.evaluate import EvaluateConfig, freeze, invariant_splits, measure, translated
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.evaluate import PairProbeConfig


def small_encoder() -> Encoder:
    torch.manual_seed(0)
    preprocessing = Preprocessing(image_size=32)
    return Encoder(EncoderConfig(backbone="resnet-small", equivariant_dim=64, preprocessing=preprocessing)).eval()


def test_indices_are_translated_by_name() -> None:
    indices = np.array([0, 1, 2, -1])
    assert translated(indices, ["bird", "cat", "dog"], ["ant", "cat", "bird"]).tolist() == [2, 1, 3, -1]


def manifests(folder: Path) -> tuple[ShardManifest, ShardManifest]:
    """24 images of three classes, and a manifest of its own for those of the last class."""
    everything = index_shards(write_images(folder / "all", samples=24, labels=3), folder / "all")
    keys = {everything.samples.key(row) for row in range(24) if everything.label[row] == 2}
    only = folder / "only" / "only.tar"
    only.parent.mkdir()
    with tarfile.open(only, "w") as out:
        for shard in sorted((folder / "all").glob("*.tar")):
            with tarfile.open(shard) as tar:
                for member in tar:
                    if member.name.partition(".")[0] in keys:
                        out.addfile(member, tar.extractfile(member))
    return everything, index_shards([only], folder / "only")


def test_the_same_images_under_a_smaller_vocabulary_are_still_recognised(tmp_path: Path) -> None:
    everything, alone = manifests(tmp_path)
    assert (len(everything.labels), len(alone.labels)) == (3, 1)
    top1 = measure(small_encoder(), everything, alone, EvaluateConfig(k=1))[0]
    assert top1.value == 1.0


def test_labels_and_groups_mean_the_same_in_gallery_and_queries(tmp_path: Path) -> None:
    everything, alone = manifests(tmp_path)
    encoder = small_encoder()
    gallery, queries = invariant_splits(
        freeze(encoder, everything), freeze(encoder, alone), train=everything, val=alone
    )
    names = [everything.groups[index] for index in queries.group]
    assert names == [alone.groups[index] for index in alone.group]
    assert {everything.labels[index] for index in queries.label} == {"class-2"}
    # Each thing is drawn once in each of two domains: a query's own group is two images of the gallery, no others.
    assert (queries.group[:, None] == gallery.group[None, :]).sum(dim=1).tolist() == [2] * len(alone)


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
