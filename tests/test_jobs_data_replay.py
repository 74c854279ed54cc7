"""A share of old samples among all new ones, the same ones each time; nothing but `adapt` is thinned by it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import write_images

from viewfold.errors import InvalidInput
from viewfold.jobs.data import DataConfig, source
from viewfold.jobs.data_replay import ReplayConfig
from viewfold.pipeline.indexer import index_shards

OLD, NEW = ("images-000000", "images-000001"), ("images-000002",)
"""Of ten samples each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards and their manifest."""
    folder = tmp_path_factory.mktemp("replay")
    index_shards([str(path) for path in write_images(folder, samples=30)], folder)
    return folder


def keys(folder: Path, replay: ReplayConfig | None, *, domains: tuple[str, ...] = ()) -> list[str]:
    manifest = source(folder, DataConfig(shards=(str(folder),), domains=domains, replay=replay))
    return [manifest.key(row) for row in range(len(manifest))]


def of(folder: Path, names: tuple[str, ...], **settings: float) -> ReplayConfig:
    return ReplayConfig(shards=tuple(str(folder / f"{name}.tar") for name in names), **settings)  # type: ignore[arg-type]


def test_old_samples_are_drawn_to_their_share_and_new_ones_all_kept(folder: Path) -> None:
    found = keys(folder, of(folder, OLD, share=1 / 3))
    old = [key for key in found if key.startswith(OLD)]
    assert len(old) == 5
    assert len(found) == 15
    assert found == sorted(found)
    assert keys(folder, of(folder, OLD, share=1 / 3)) == found
    assert keys(folder, of(folder, OLD, share=1 / 3, seed=1)) != found


def test_a_share_that_asks_for_more_than_there_is_keeps_all(folder: Path) -> None:
    assert keys(folder, of(folder, OLD, share=0.95)) == keys(folder, None)
    assert all(key.startswith(NEW) for key in keys(folder, of(folder, OLD, share=0)))


def test_old_samples_fill_up_what_few_new_ones_leave(folder: Path) -> None:
    assert len(keys(folder, of(folder, OLD, share=0, at_least=12))) == 12
    assert len(keys(folder, of(folder, OLD, share=0.5, at_least=12))) == 20
    assert keys(folder, of(folder, OLD, share=0, at_least=1000)) == keys(folder, None)


def test_the_share_is_of_what_the_other_filters_leave(folder: Path) -> None:
    found = keys(folder, of(folder, OLD, share=0.5), domains=("style-0",))
    new = [key for key in found if key.startswith(NEW)]
    assert len(new) == 5
    assert len(found) == 10


def test_shards_of_which_none_is_new_are_refused_or_all_learned_from(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"every sample lies in the shards to replay"):
        keys(folder, of(folder, OLD + NEW))
    settled = replace(of(folder, OLD + NEW, share=0.1, at_least=5), nothing_new="all")
    assert keys(folder, settled) == keys(folder, None)


@pytest.mark.parametrize("share", [-0.1, 0.96, np.nan])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"share must lie in 0\.\.0\.95"):
        ReplayConfig(shards=("a.tar",), share=share)
