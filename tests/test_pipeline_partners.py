"""Mined pairs: which is drawn when, and streams of them: exactly once, whole after a cut, honest about what is bad."""

import dataclasses
import math
import pickle
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mined import chain, tracks, write_pairs
from servers import file_server
from test_pipeline_stream import assert_same, joined
from tiny import break_image, write_objects

from viewfold.augment import POLICIES, NonePolicy, make_views
from viewfold.errors import ArtifactMismatch, InvalidInput, ShardError
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.partners import Drawn, Partners
from viewfold.pipeline.quarantine import read_quarantine
from viewfold.pipeline.state import step_of
from viewfold.pipeline.stream import position_of, sample_batch, stream_batches
from viewfold.pipeline.stream_config import StreamConfig, make_order

CONFIG = StreamConfig(batch_size=4, image_size=16, block=2)
PAIRED = range(1, 11)
"""Rows that have edges; 0 and 11 have none."""
EDGES = tracks(PAIRED) + chain(PAIRED)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> ShardManifest:
    """Twelve objects of four views, of three classes."""
    folder = tmp_path_factory.mktemp("objects")
    return index_shards(write_objects(folder), folder)


@pytest.fixture(scope="module")
def partners(objects: ShardManifest, tmp_path_factory: pytest.TempPathFactory) -> Partners:
    return Partners.load(write_pairs(tmp_path_factory.mktemp("mined"), objects, EDGES), objects)


def draws(partners: Partners, row: int, *, epochs: int, seed: int = 0) -> list[Drawn]:
    return [partners.draw(row, epoch, f"sample-{row}", seed) for epoch in range(epochs)]


def test_a_draw_is_a_function_of_seed_epoch_identity_and_edges(
    objects: ShardManifest, partners: Partners, tmp_path: Path
) -> None:
    assert partners.anchors.tolist() == list(PAIRED)
    again = Partners.load(write_pairs(tmp_path, objects, EDGES, shuffle=3), objects)
    assert again.hash == partners.hash
    drawn = [draws(partners, row, epochs=30) for row in PAIRED]
    assert [draws(again, row, epochs=30) for row in PAIRED] == drawn
    assert [draws(partners, row, epochs=30, seed=1) for row in PAIRED] != drawn
    fewer = Partners.load(write_pairs(tmp_path, objects, EDGES[1:]), objects)
    other_share = Partners.load(write_pairs(tmp_path, objects, EDGES, transitive_share=0.5), objects)
    assert len({partners.hash, fewer.hash, other_share.hash}) == 3


@pytest.mark.parametrize("share", [7 / 9, 0.0, 1.0])
def test_kinds_come_in_the_shares_that_are_set_and_edges_of_a_kind_equally_often(
    objects: ShardManifest, tmp_path: Path, share: float
) -> None:
    partners = Partners.load(write_pairs(tmp_path, objects, EDGES, transitive_share=share), objects)
    count = 6000
    found = Counter(draws(partners, 4, epochs=count))  # of parent 1, as row 5 is; row 3 is of parent 0

    across = {(0, 3, 0): 1 / 3, (0, 5, 0): 1 / 3, (0, 5, 1): 1 / 3, (1, 3, 0): 1.0}
    expected: dict[tuple[int, ...], float] = {edge: share * part / 4 for edge, part in across.items()}
    for member in range(4):
        within = 1.0 if member > 1 else 1 - share
        expected |= {(member, 4, other): within / 3 / 4 for other in range(4) if other != member}
    assert {edge[:3] for edge in found} == {edge for edge, probability in expected.items() if probability}
    for edge, times in found.items():
        probability = expected[edge[:3]]
        assert abs(times - count * probability) <= 5 * math.sqrt(count * probability * (1 - probability)), edge
    for member, partner, other, parents in found:
        assert parents == tuple(row // 4 if image < 2 else -1 for row, image in ((4, member), (partner, other)))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_sample_with_a_pair_comes_once_an_epoch_on_any_number_of_ranks(
    objects: ShardManifest, partners: Partners, world_size: int
) -> None:
    ranks = [
        stream_batches(objects, CONFIG, rank=rank, world_size=world_size, num_steps=5, partners=partners)
        for rank in range(world_size)
    ]
    alone = stream_batches(objects, CONFIG, num_steps=5, partners=partners)
    seen = []
    for expected, *parts in zip(alone, *ranks, strict=True):  # 20 places: two epochs of 10
        batch = joined(parts)
        assert_same(batch, expected)
        seen += list(zip(batch.epochs.tolist(), batch.rows.tolist(), strict=True))
    assert sorted(seen) == [(epoch, row) for epoch in (0, 1) for row in PAIRED]


def test_a_place_shows_an_image_and_its_partners_with_what_is_recorded_of_each(
    objects: ShardManifest, partners: Partners
) -> None:
    kinds = set()
    with objects.reader() as reader:
        for batch in stream_batches(objects, CONFIG, num_steps=10, partners=partners):
            assert batch.partners is not None
            assert batch.parent is not None
            assert batch.latents is not None
            assert (batch.images.shape, batch.latents.shape) == ((2, 4, 3, 16, 16), (2, 4, 7))
            for place, (row, key) in enumerate(zip(batch.rows.tolist(), batch.keys, strict=True)):
                drawn = partners.draw(row, int(batch.epochs[place]), objects.key(row), CONFIG.seed)
                members, partner = batch.members[:, place].tolist(), int(batch.partners[place])
                assert (members[0], partner, members[1], tuple(batch.parent[:, place].tolist())) == drawn
                assert key == objects.key(row)
                for image, (shown, member) in enumerate(zip((row, partner), members, strict=True)):
                    data = reader.read(objects.shard(shown), objects.samples.images(shown)[member])
                    np.testing.assert_array_equal(batch.images[image, place], decode_image(data, 16))
                for name in ("label", "group"):
                    own, other = (int(getattr(objects, name)[which]) for which in (row, partner))
                    assert int(getattr(batch, name)[place]) == (own if own == other else -1)
                kinds.add(row == partner)
    assert kinds == {True, False}


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_a_stream_of_pairs_goes_on_as_if_never_cut(
    objects: ShardManifest, partners: Partners, loader_workers: int
) -> None:
    whole = list(stream_batches(objects, CONFIG, num_steps=6, partners=partners))
    with closing(stream_batches(objects, CONFIG, num_steps=6, partners=partners)) as stream:
        state = stream.state(4)
    config = dataclasses.replace(CONFIG, loader_workers=loader_workers)
    sent = pickle.loads(pickle.dumps(partners))
    start = step_of(state, objects, config, sent)
    rest = stream_batches(objects, config, start_step=start, num_steps=2, partners=sent)
    for got, wanted in zip(rest, whole[4:], strict=True):
        assert_same(got, wanted)


def test_a_cut_run_goes_on_with_its_own_pairs_only(objects: ShardManifest, partners: Partners, tmp_path: Path) -> None:
    other = Partners.load(write_pairs(tmp_path, objects, EDGES[:-1]), objects)
    with closing(stream_batches(objects, CONFIG, num_steps=1, partners=partners)) as stream:
        state = stream.state(1)
    with pytest.raises(ArtifactMismatch, match=f"made on the mined pairs {partners.hash}, .* pairs {other.hash} now"):
        step_of(state, objects, CONFIG, other)
    with pytest.raises(ArtifactMismatch, match="there are no mined pairs now"):
        step_of(state, objects, CONFIG)
    with closing(stream_batches(objects, CONFIG, num_steps=1)) as stream:
        state = stream.state(1)
    with pytest.raises(ArtifactMismatch, match="made on no mined pairs, there are the mined pairs"):
        step_of(state, objects, CONFIG, partners)


def test_a_partner_that_cannot_be_read_is_written_down_by_its_own_key(tmp_path: Path) -> None:
    """One image of object 7 is met as the sample's own and as its neighbours' partner; either way it is that image."""
    paths = write_objects(tmp_path)
    manifest = index_shards(paths, tmp_path)
    partners = Partners.load(write_pairs(tmp_path / "mined", manifest, EDGES), manifest)
    config = dataclasses.replace(CONFIG, max_bad_share=0.3)
    whole = list(stream_batches(manifest, config, num_steps=10, partners=partners))
    break_image(paths[1], "obj-0007.00.jpg")
    got = stream_batches(manifest, config, num_steps=10, partners=partners, quarantine=tmp_path / "quarantine.jsonl")
    order, replaced = make_order(manifest, config, partners), set()
    for step, (batch, wanted) in enumerate(zip(got, whole, strict=True)):
        assert wanted.partners is not None
        for place, row in enumerate(wanted.rows.tolist()):
            images = list(zip((row, int(wanted.partners[place])), wanted.members[:, place].tolist(), strict=True))
            if (7, 0) in images:
                replaced.add(row)
                stand_ins = [order.stand_in(step, place, nth) for nth in (1, 2, 3)]
                assert (int(batch.rows[place]), int(batch.epochs[place])) in stand_ins
            else:
                assert torch.equal(batch.images[:, place], wanted.images[:, place])
    assert replaced > {7}
    (bad,) = read_quarantine(tmp_path / "quarantine.jsonl")
    assert (bad.key, bad.member, bad.offset) == ("obj-0007", 0, manifest.place(7, 0).offset)
    with pytest.raises(ShardError, match=r"^objects-000001: obj-0007: image 00 at byte \d+: .*cut short"):
        list(stream_batches(manifest, CONFIG, num_steps=10, partners=partners))


def test_pairs_on_a_server_are_those_of_local_shards(
    objects: ShardManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFOLD_CACHE", str(tmp_path / "cache"))
    with file_server() as server:
        server.files |= {f"/{shard.name}.tar": Path(shard.location).read_bytes() for shard in objects.shards}
        remote = index_shards([f"{server.url}/{shard.name}.tar" for shard in objects.shards], tmp_path / "remote")
        partners = Partners.load(write_pairs(tmp_path / "mined", remote, EDGES), remote)
        got = list(stream_batches(remote, CONFIG, num_steps=3, partners=partners))
    for batch, expected in zip(got, stream_batches(objects, CONFIG, num_steps=3, partners=partners), strict=True):
        assert_same(batch, expected)


def test_one_sample_can_be_shown_again_with_its_partner(objects: ShardManifest, partners: Partners) -> None:
    for step, batch in enumerate(stream_batches(objects, CONFIG, num_steps=4, partners=partners)):
        for place, (row, epoch) in enumerate(zip(batch.rows.tolist(), batch.epochs.tolist(), strict=True)):
            assert position_of(objects, CONFIG, row, epoch, partners=partners) == (step, place)
            once = sample_batch(objects, CONFIG, row, epoch, partners=partners)
            assert torch.equal(once.images[:, 0], batch.images[:, place])
    assert position_of(objects, CONFIG, 0, 0, partners=partners) is None
    with pytest.raises(InvalidInput, match="objects-000000/obj-0000: no pair was mined of it"):
        sample_batch(objects, CONFIG, 0, 0, partners=partners)


def test_both_images_of_a_pair_get_views_of_their_own_and_the_parent_goes_with_them(
    objects: ShardManifest, partners: Partners
) -> None:
    (batch,) = stream_batches(objects, CONFIG, num_steps=1, partners=partners)
    stored = make_views(batch, NonePolicy(), seed=0)
    drawn = make_views(batch, POLICIES["simclr"](), seed=0)
    assert torch.equal(stored.images, batch.images.float() / 255)
    assert drawn.images.shape == stored.images.shape
    assert drawn.params is not None
    assert (drawn.params[0, :, 7:] != drawn.params[1, :, 7:]).any(dim=1).all()
    for views in (stored, drawn):
        assert views.parent is not None
        assert batch.parent is not None
        assert torch.equal(views.parent, batch.parent)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images_per_sample": 2}, "images_per_sample=2 has no place beside mined pairs.*; set images_per_sample=1"),
        ({"batch_size": 12}, "batch_size=12 is more than the 10 samples that have a mined pair"),
    ],
)
def test_a_stream_of_pairs_that_cannot_be_is_refused_at_once(
    objects: ShardManifest, partners: Partners, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        stream_batches(objects, dataclasses.replace(CONFIG, **change), num_steps=1, partners=partners)


def test_pairs_that_cannot_be_used_are_refused_by_name(objects: ShardManifest, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no mining\.json.*`viewfold mine`"):
        Partners.load(tmp_path, objects)
    folder = write_pairs(tmp_path / "mined", objects, EDGES)
    part = objects.take(np.arange(8))
    with pytest.raises(ArtifactMismatch, match=f"mined on data {objects.hash}, the manifest is {part.hash}"):
        Partners.load(folder, part)
    with pytest.raises(InvalidInput, match="holds no pair"):
        Partners.load(write_pairs(folder, objects, []), objects)
    with pytest.raises(InvalidInput, match=r"unknown kinds \{'friend'\}"):
        Partners.load(write_pairs(folder, objects, [((1, 0), (2, 0), "friend")]), objects)
    with pytest.raises(InvalidInput, match="not of format 1"):
        Partners.load(write_pairs(folder, objects, EDGES, format=2), objects)
    write_pairs(folder, objects, EDGES)
    pq.write_table(pq.read_table(folder / "nodes.parquet").slice(0, 9), folder / "nodes.parquet")
    with pytest.raises(InvalidInput, match="edges of another set of nodes"):
        Partners.load(folder, objects)
    (folder / "edges.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match=r"not whole .*mine again"):
        Partners.load(folder, objects)
