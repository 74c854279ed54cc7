"""The exception tree, and that an error keeps its facts on the way from one process to another."""

import pickle

import pytest

from viewfold.errors import (
    ArtifactMismatch,
    InvalidInput,
    MissingDependency,
    ShardError,
    TrainingStopped,
    ViewfoldError,
)


@pytest.mark.parametrize("error", [InvalidInput, ShardError, ArtifactMismatch, TrainingStopped, MissingDependency])
def test_every_error_is_caught_as_one(error: type[Exception]) -> None:
    assert issubclass(error, ViewfoldError)


@pytest.mark.parametrize(
    ("error", "builtin"), [(InvalidInput, ValueError), (ShardError, ValueError), (MissingDependency, ImportError)]
)
def test_who_does_not_know_us_catches_the_builtin(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)


def test_a_stopped_run_is_not_the_fault_of_the_input() -> None:
    assert not issubclass(TrainingStopped, InvalidInput)


@pytest.mark.parametrize(
    ("key", "message"),
    [("obj-0001", "a.tar: obj-0001: not an image"), ("", "a.tar: : not an image"), (None, "a.tar: not an image")],
)
def test_a_shard_error_is_one_sentence_that_names_shard_and_key(key: str | None, message: str) -> None:
    assert str(ShardError("a.tar", "not an image", key)) == message


def test_a_shard_error_crosses_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(ShardError("a.tar", "not an image", "obj-0001")))
    assert (error.shard, error.key, error.reason) == ("a.tar", "obj-0001", "not an image")
    assert str(error) == "a.tar: obj-0001: not an image"
