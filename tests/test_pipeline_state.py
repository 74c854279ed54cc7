"""The state of a stream: a few integers that find the exact next sample, on the same data, in the same order only."""

import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_images

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.state import StreamState, read_state, step_of, write_state
from viewfold.pipeline.stream import stream_batches
from viewfold.pipeline.stream_config import StreamConfig

CONFIG = StreamConfig(batch_size=6, image_size=8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ShardManifest:
    folder = tmp_path_factory.mktemp("images")
    return index_shards(write_images(folder, samples=26, size=8, per_shard=9), folder)


def state(manifest: ShardManifest, config: StreamConfig, step: int) -> StreamState:
    with closing(stream_batches(manifest, config, num_steps=1)) as stream:
        return stream.state(step)


def taken(
    manifest: ShardManifest, config: StreamConfig, ranks: int, first: int, last: int
) -> list[list[tuple[int, str]]]:
    """What each global batch of some steps holds, put together from the ranks."""
    streams = [
        stream_batches(manifest, config, rank=rank, world_size=ranks, start_step=first, num_steps=last - first)
        for rank in range(ranks)
    ]
    return [
        [pair for part in parts for pair in zip(part.epochs.tolist(), part.keys, strict=True)]
        for parts in zip(*streams, strict=True)
    ]


@given(
    cut=st.integers(0, 9),
    ranks=st.tuples(st.sampled_from([1, 2, 3, 6]), st.sampled_from([1, 2, 3, 6])),
    lanes=st.sampled_from([1, 2, 3, 6]),
    block=st.integers(1, 9),
    tail=st.sampled_from(["carry", "drop", "pad"]),
)
@settings(max_examples=25, deadline=None)
def test_resumed_on_any_ranks_equals_never_stopped(
    images: ShardManifest, cut: int, ranks: tuple[int, int], lanes: int, block: int, tail: Any
) -> None:
    config = dataclasses.replace(CONFIG, lanes=lanes, block=block, tail=tail)
    whole = taken(images, config, 1, 0, 10)
    assert taken(images, config, ranks[0], 0, cut) == whole[:cut]
    start = step_of(state(images, config, cut), images, config)
    assert taken(images, config, ranks[1], start, 10) == whole[cut:]


def test_loader_processes_of_another_number_go_on_where_the_others_stopped(images: ShardManifest) -> None:
    whole = taken(images, CONFIG, 1, 0, 8)
    for workers in (0, 1, 2):
        config = dataclasses.replace(CONFIG, loader_workers=workers)
        assert taken(images, config, 1, step_of(state(images, CONFIG, 3), images, config), 8) == whole[3:]


def test_a_state_is_a_few_integers_and_comes_back(images: ShardManifest, tmp_path: Path) -> None:
    found = state(images, CONFIG, 9)
    assert (found.epoch, found.samples, found.manifest_hash) == (2, 54, images.hash)
    write_state(tmp_path, found)
    assert read_state(tmp_path) == found
    assert (tmp_path / "stream.json").stat().st_size < 250
    (tmp_path / "stream.json").write_text(json.dumps({"epoch": 1}))
    with pytest.raises(InvalidInput, match=r"stream\.json: no state of a stream"):
        read_state(tmp_path)


def test_other_data_is_refused_with_both_hashes(images: ShardManifest, tmp_path: Path) -> None:
    other = index_shards(write_images(tmp_path, samples=25, size=8), tmp_path)
    with pytest.raises(ArtifactMismatch, match=rf"on data {images.hash}, the manifest is {other.hash}"):
        step_of(state(images, CONFIG, 3), other, CONFIG)


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 3}, {"seed": 1}, {"block": 7}, {"tail": "drop"}, {"lanes": 3}],
    ids=lambda c: next(iter(c)),
)
def test_another_order_is_refused(images: ShardManifest, change: dict[str, Any]) -> None:
    found = state(images, CONFIG, 3)
    with pytest.raises(ArtifactMismatch, match="give the old settings back"):
        step_of(found, images, dataclasses.replace(CONFIG, **change))
    assert step_of(found, images, dataclasses.replace(CONFIG, loader_workers=3, ledger="x", max_bad_share=0.5)) == 3
