"""The ledger: what it proves of a run that was killed and went on, and that it would tell if it were not so."""

import dataclasses
import json
from pathlib import Path

import pytest
from tiny import break_image, write_images

from viewfold.errors import InvalidInput
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.ledger import Ledger, audit, read_ledger
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stream import stream_batches
from viewfold.pipeline.stream_config import StreamConfig

CONFIG = StreamConfig(batch_size=4, image_size=8)


@pytest.fixture
def images(tmp_path: Path) -> ShardManifest:
    return index_shards(write_images(tmp_path / "data"), tmp_path / "data")


def consume(
    manifest: ShardManifest, folder: Path, config: StreamConfig, *, ranks: int, first: int, last: int, attempt: int = 0
) -> None:
    """Steps `first` to `last` by `ranks` ranks, as one attempt."""
    for rank in range(ranks):
        stream = stream_batches(manifest, config, rank=rank, world_size=ranks, start_step=first, num_steps=last - first)
        ledger = Ledger(folder, rank=rank, attempt=attempt)
        ledger.begin(step=first, world_size=ranks, manifest_hash=manifest.hash, num_samples=len(manifest))
        stream.keep(ledger)
        assert len(list(stream)) == last - first


def test_history_that_was_kept_holds_every_sample_once_whatever_ranks_came_and_went(
    images: ShardManifest, tmp_path: Path
) -> None:
    folder = tmp_path / "ledger"
    consume(images, folder, CONFIG, ranks=2, first=0, last=5)  # killed after 5 steps, the last checkpoint at 4
    consume(images, folder, CONFIG, ranks=1, first=4, last=8, attempt=1)
    consume(images, folder, CONFIG, ranks=4, first=6, last=12, attempt=2)
    rows = list(read_ledger(folder))
    undone = [(row.attempt, row.step) for row in rows if row.rolled_back]
    assert sorted(set(undone)) == [(0, 4), (1, 6), (1, 7)]
    found = audit(folder)
    assert (found.sound, found.attempts, found.rolled_back) == (True, 3, 4 + 8)
    assert {epoch: entry.taken for epoch, entry in found.epochs.items()} == {0: 24, 1: 24}
    kept = [(e, key) for row in rows if not row.rolled_back for e, key in zip(row.epochs, row.keys, strict=True)]
    assert sorted(kept) == sorted((epoch, images.key(row)) for epoch in (0, 1) for row in range(24))


def test_a_sample_that_came_twice_is_told(images: ShardManifest, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    consume(images, folder, CONFIG, ranks=1, first=0, last=6)
    path = folder / "rank-00000.jsonl"
    *head, last = [json.loads(line) for line in path.read_text().splitlines()]
    last["keys"][0] = head[1]["keys"][0]  # head[0] is the line of the attempt
    path.write_text("".join(json.dumps(line) + "\n" for line in (*head, last)))
    found = audit(folder)
    assert not found.sound
    assert found.epochs[0].twice == [head[1]["keys"][0]]


def test_padding_and_stand_ins_are_counted_and_not_held_for_faults(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, samples=10, size=16)
    manifest = index_shards([path], tmp_path)
    break_image(path, "img-0003.png", keep=0.1)
    config = dataclasses.replace(CONFIG, tail="pad", max_bad_share=0.1)
    consume(manifest, tmp_path / "ledger", config, ranks=1, first=0, last=3)
    entry = audit(tmp_path / "ledger").epochs[0]
    assert (entry.taken, entry.repeated, entry.twice) == (10, 2, [])
    assert entry.stood_in >= 1
    (row,) = (row for row in read_ledger(tmp_path / "ledger") if row.stand_ins and not row.repeated)
    ((place, key),) = row.stand_ins.items()
    assert (row.keys[place], key != row.keys[place]) == ("images-000000/img-0003", True)


def test_a_line_that_a_kill_left_unfinished_hurts_nobody(images: ShardManifest, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    consume(images, folder, CONFIG, ranks=1, first=0, last=4)
    with (folder / "rank-00000.jsonl").open("a") as file:
        file.write('{"attempt": 0, "step": 4, "ra')
    consume(images, folder, CONFIG, ranks=1, first=4, last=6, attempt=1)
    assert [row.step for row in read_ledger(folder)] == list(range(6))
    assert (audit(folder).sound, audit(folder).epochs[0].taken) == (True, 24)


def test_lines_that_are_missing_are_told(images: ShardManifest, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    consume(images, folder, CONFIG, ranks=2, first=0, last=6)
    path = folder / "rank-00001.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))
    assert (audit(folder).holes, audit(folder).sound) == ([(1, 1)], False)
    path.unlink()
    assert audit(folder).holes == [(step, 1) for step in range(6)]


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    for text in ('{"from_step": 3}\n', '{"from_step"}\n', '{"step": 1, "stand_ins": {}}\n'):
        (tmp_path / "rank-00000.jsonl").write_text(text)
        with pytest.raises(InvalidInput, match="ledger"):
            audit(tmp_path)
    with pytest.raises(InvalidInput, match=r"stream\.ledger=.*: cannot be written"):
        Ledger(tmp_path / "rank-00000.jsonl", rank=0, attempt=0)


def test_the_ledger_of_another_run_is_not_written_on(images: ShardManifest, tmp_path: Path) -> None:
    consume(images, tmp_path / "ledger", CONFIG, ranks=1, first=0, last=1)
    with pytest.raises(InvalidInput, match="holds the ledger of another run"):
        consume(images, tmp_path / "ledger", CONFIG, ranks=1, first=0, last=1)


def test_a_folder_without_a_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no ledger there; train with stream\.ledger="):
        audit(tmp_path)
