"""The quarantine: each bad sample once, whichever rank meets it, and a budget over the set that outlives a run."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from viewfold.errors import InvalidInput, ShardError, TrainingStopped
from viewfold.pipeline.quarantine import (
    NO_EPOCH,
    BadSample,
    Quarantine,
    read_quarantine,
    refuse_faults,
    write_quarantine,
)
from viewfold.pipeline.shards import Fault


def bad(number: int, *, member: int = 0, epoch: int = 0) -> BadSample:
    return BadSample(f"shard-{number % 3}", f"key-{number}", member, 512 * number, "broken image", epoch)


def keys(path: Path) -> list[str]:
    return [one.key for one in read_quarantine(path)]


def test_without_a_budget_the_first_bad_sample_ends_the_run_and_nothing_is_written(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl", max_bad_share=0, num_samples=100)
    with pytest.raises(ShardError, match=r"^shard-1: key-4: image 02 at byte 2048: broken image$"):
        quarantine.admit([bad(4, member=2), bad(5)], step=0)
    assert not (tmp_path / "q.jsonl").exists()


def test_a_sample_is_written_once_however_often_it_is_met(tmp_path: Path) -> None:
    path = tmp_path / "run" / "q.jsonl"
    quarantine = Quarantine(path, max_bad_share=0.5, num_samples=100)
    for step, epoch in enumerate((0, 0, 1)):
        quarantine.admit([bad(1, member=step, epoch=epoch), bad(2), bad(1, member=3)], step=step)
    quarantine.admit([], step=3)
    assert quarantine.count == 2
    assert read_quarantine(path) == [bad(1), bad(2)]


def test_the_share_is_of_the_whole_set_and_counts_distinct_samples(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl", max_bad_share=0.02, num_samples=100)
    for step in range(10):
        quarantine.admit([bad(1), bad(2)], step=step)
    stopped = (
        "step 10: 3 bad samples of 100 are 3.00%, more than the 2.00% of max_bad_share; the last was shard-0: key-3"
    )
    with pytest.raises(TrainingStopped, match=stopped):
        quarantine.admit([bad(3)], step=10)
    assert keys(tmp_path / "q.jsonl") == ["key-1", "key-2", "key-3"]


def test_a_resumed_run_goes_on_counting_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    Quarantine(path, max_bad_share=0.02, num_samples=100).admit([bad(1), bad(2)], step=7)
    resumed = Quarantine(path, max_bad_share=0.02, num_samples=100)
    assert resumed.count == 2
    resumed.admit([bad(2)], step=6)  # rolled back to a checkpoint, it meets the sample again
    assert keys(path) == ["key-1", "key-2"]
    with pytest.raises(TrainingStopped, match="3 bad samples of 100"):
        resumed.admit([bad(3)], step=8)
    with pytest.raises(TrainingStopped, match="3 bad samples of 100"):
        Quarantine(path, max_bad_share=0.02, num_samples=100).admit([bad(1)], step=0)


def test_ranks_share_one_budget(tmp_path: Path) -> None:
    first, second = (Quarantine(tmp_path / "q.jsonl", max_bad_share=0.03, num_samples=100) for _ in range(2))
    first.admit([bad(1), bad(2)], step=0)
    second.admit([bad(3), bad(2)], step=0)
    assert (first.count, second.count) == (3, 3)
    with pytest.raises(TrainingStopped, match="4 bad samples"):
        first.admit([bad(4)], step=1)


def test_half_a_line_that_a_kill_left_is_no_sample_and_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    quarantine = Quarantine(path, max_bad_share=0.5, num_samples=100)
    quarantine.admit([bad(1)], step=0)
    with path.open("ab") as file:
        file.write(json.dumps({"shard": "shard-2", "key": "key-2"}).encode()[:20])
    resumed = Quarantine(path, max_bad_share=0.5, num_samples=100)
    assert (resumed.count, keys(path)) == (1, ["key-1"])
    resumed.admit([bad(2)], step=1)
    quarantine.admit([bad(3)], step=1)
    assert (quarantine.count, keys(path)) == (3, ["key-1", "key-2", "key-3"])


def admit_many(path: Path, numbers: list[int]) -> int:
    """Meet these samples, a few at a time; returns the process."""
    quarantine = Quarantine(path, max_bad_share=0.9, num_samples=1000)
    for step in range(0, len(numbers), 3):
        quarantine.admit([bad(number) for number in numbers[step : step + 3]], step=step)
    return os.getpid()


def test_processes_that_write_at_the_same_time_write_each_sample_once(
    plain_process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    path, forwards = tmp_path / "q.jsonl", list(range(300))
    plain_process.submit(admit_many, path, []).result()  # it has started and imported everything
    other = plain_process.submit(admit_many, path, forwards[::-1])
    assert admit_many(path, forwards) != other.result()
    assert sorted(keys(path), key=lambda key: int(key[4:])) == [f"key-{number}" for number in forwards]


def test_without_a_file_a_rank_counts_for_itself() -> None:
    quarantine = Quarantine(None, max_bad_share=0.02, num_samples=100)
    quarantine.admit([bad(1), bad(2)], step=0)
    assert quarantine.count == 2
    with pytest.raises(TrainingStopped, match="3 bad samples"):
        quarantine.admit([bad(3)], step=1)


@pytest.mark.parametrize("line", ['{"shard": 1}', "{", "[1]"])
def test_a_quarantine_that_is_none_is_refused_by_line(line: str, tmp_path: Path) -> None:
    write_quarantine(tmp_path / "q.jsonl", [Fault("s", "k", 7, "gone")])
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write(line + "\n")
    for read in (read_quarantine, lambda path: Quarantine(path, max_bad_share=0.5, num_samples=1).count):
        with pytest.raises(InvalidInput, match="line 2 is not a quarantine record"):
            read(tmp_path / "q.jsonl")


def test_what_indexing_finds_is_written_in_the_same_form(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    write_quarantine(path, [Fault("s", "k", 7, "gone"), Fault("s", "", 9, "cut")])
    found = read_quarantine(path)
    assert found == [BadSample("s", "k", -1, 7, "gone", NO_EPOCH), BadSample("s", "", -1, 9, "cut", NO_EPOCH)]
    assert [str(one.error()) for one in found] == ["s: k: byte 7: gone", "s: byte 9: cut"]
    assert str(BadSample("s", "k", -1, 7, "gone", 0).error()) == "s: k: JSON at byte 7: gone"
    write_quarantine(path, [])
    assert not path.exists()


def test_faults_are_refused_with_their_number_and_what_can_be_done() -> None:
    faults = [Fault("b", "k1", 7, "gone"), Fault("b", "k2", 9, "gone"), Fault("a", "k", 3, "gone")]
    with pytest.raises(ShardError) as refused:
        refuse_faults(faults, found={"a": 40, "b": 57}, max_bad_share=0)
    assert str(refused.value) == (
        "b: k1: byte 7: gone (3 of 100 samples cannot be used, 3.00%; `--max-bad-share 0.05` (in a run: "
        "data.max_bad_share=0.05) leaves them out and lists them in quarantine.jsonl, `viewfold data repair` writes "
        "clean shards of what is whole)"
    )
    with pytest.raises(ShardError, match=r"3\.00%, more than the 2\.00% allowed"):
        refuse_faults(faults, found={"a": 97}, max_bad_share=0.02)
    refuse_faults(faults, found={"a": 97}, max_bad_share=0.03)
    refuse_faults([], found={}, max_bad_share=0)


def test_a_shard_that_is_cut_counts_for_what_it_lacks() -> None:
    """One sample is named, and none knows how many more there were: as many as the others have is the best guess."""
    faults = [Fault("b", "", 7, "cut short"), Fault("b", "k2", 7, "cut short")]
    found = {"a": 50, "b": 10, "c": 48, "d": 50}
    with pytest.raises(ShardError, match=r"40 of 198 samples cannot be used, 20\.20%"):
        refuse_faults(faults, found=found, max_bad_share=0.2)
    refuse_faults(faults, found=found, max_bad_share=0.21)
