import json
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor
from trainees import GLOBAL_BATCH, batches, make_views, sie

from viewfold.errors import InvalidInput, TrainingStopped
from viewfold.ssl.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint
from viewfold.ssl.dist import rank
from viewfold.ssl.encoder import trained_encoder
from viewfold.ssl.engine import LocalEngine, OptimConfig
from viewfold.ssl.loop import Step, checkpoint_hook, metrics_hook, train
from viewfold.ssl.watch import CollapseWatch, WatchConfig
from viewfold.values import Batch, Views

STEPS = 5
OPTIM = OptimConfig(schedule="cosine", warmup_steps=2, lr=1e-2)
TERMS = ("invariance", "equivariance", "variance", "prediction_variance", "covariance")


def local() -> LocalEngine:
    return LocalEngine(sie(), OPTIM, num_steps=STEPS)


def run(folder: Path, *, until: int = STEPS) -> dict[str, Tensor]:
    """Train, from the newest checkpoint in `folder` if there is one; this rank's state afterwards."""
    engine, progress = local(), Progress()
    if latest := latest_checkpoint(folder):
        progress = load_checkpoint(latest, engine)
    hooks = [
        metrics_hook(folder / "metrics.jsonl", every=2, progress=progress, watch=CollapseWatch(WatchConfig())),
        checkpoint_hook(every=2, save=lambda now: save_checkpoint(folder, engine, now)),
    ]
    train(engine, batches(start=progress.step), make_views, progress=progress, steps=until, hooks=hooks)
    return dict(engine.method.state_dict())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def values(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what the clock decides."""
    return {name: value for name, value in row.items() if name not in {"samples_s", "data_wait"}}


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_cut_and_resumed_equals_never_stopped(tmp_path: Path, num_ranks: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = run_ranks(run, whole, world_size=num_ranks)
    run_ranks(cut_run, cut, world_size=num_ranks)
    resumed = run_ranks(run, cut, world_size=num_ranks)
    for one, other in zip(expected, resumed, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert [values(row) for row in rows(whole)] == [values(row) for row in rows(cut)]


def cut_run(folder: Path) -> None:
    """Killed while it wrote a row that came after its last checkpoint."""
    run(folder, until=2)
    if rank() == 0:
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 3, "loss": 0.0}) + '\n{"step": 4, "lo')


def test_the_trained_encoder_is_found_in_the_weights() -> None:
    method = sie()
    engine = LocalEngine(method, OPTIM, num_steps=1)
    train(engine, batches(), make_views, progress=Progress(), steps=1)
    images = batches()[0].images[0]
    trained = trained_encoder(method.encoder.config, engine.weights())
    assert torch.equal(trained.encode(images).all, method.encoder.encode(images).all)


def test_generators_of_torch_are_put_back(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, local(), Progress(step=1))
    expected = torch.rand(3)
    load_checkpoint(folder, local())
    assert torch.equal(torch.rand(3), expected)


def saved_with_noise(root: Path) -> Tensor:
    """What this rank's generator gives after a checkpoint."""
    engine = local()  # draws weights
    torch.manual_seed(10 + rank())
    save_checkpoint(root, engine, Progress(step=1))
    return torch.rand(3)


def noise_after_loading(folder: Path) -> Tensor:
    engine = local()
    torch.manual_seed(20 + rank())
    load_checkpoint(folder, engine)
    return torch.rand(3)


def test_generators_go_on_rank_by_rank_and_new_ranks_keep_their_own(tmp_path: Path) -> None:
    expected = run_ranks(saved_with_noise, tmp_path)
    assert sorted(path.name for path in (tmp_path / "step-1").iterdir()) == [
        "engine.safetensors",
        "progress.json",
        "random.safetensors",
    ]
    first, second, third = run_ranks(noise_after_loading, tmp_path / "step-1", world_size=3)
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])
    assert torch.equal(third, torch.rand(3, generator=torch.Generator().manual_seed(22)))


def test_only_the_newest_whole_checkpoints_are_kept(tmp_path: Path) -> None:
    engine = local()
    (tmp_path / "step-99.part").mkdir()
    for step in (8, 9, 10):
        save_checkpoint(tmp_path, engine, Progress(step=step, samples=80, epoch=1))
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-10", "step-9", "step-99.part"]
    newest = latest_checkpoint(tmp_path)
    assert newest == tmp_path / "step-10"
    assert load_checkpoint(newest, engine) == Progress(step=10, samples=80, epoch=1)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nowhere") is None
    with pytest.raises(InvalidInput, match="no checkpoint there"):
        load_checkpoint(tmp_path, local())


def test_rows_say_what_the_step_did(tmp_path: Path) -> None:
    run(tmp_path)
    first, second, last = rows(tmp_path)
    assert [row["step"] for row in (first, second, last)] == [2, 4, 5]
    assert [row["epoch"] for row in (first, second, last)] == [0, 0, 1]
    assert last["samples"] == 5 * GLOBAL_BATCH
    assert first["loss"] == pytest.approx(sum(first[name] for name in TERMS), rel=1e-6)
    assert first["lr"] == OPTIM.lr  # the second of two warm-up steps
    assert first["samples_s"] > 0
    assert 0 <= first["data_wait"] <= 1
    assert {f"{what}/{part}" for what in ("spread", "effective_rank") for part in ("all", "invariant")} <= set(first)


def test_facts_of_the_views_are_logged_as_means_over_ranks(tmp_path: Path) -> None:
    run_ranks(folding_run, tmp_path)
    (row,) = rows(tmp_path)
    assert row["fact/fold_fraction"] == pytest.approx(0.25)
    assert row["loss"] == pytest.approx(sum(row[name] for name in TERMS), rel=1e-6)  # facts are no part of it


def folding_run(folder: Path) -> None:
    """One step on views of which half are folded on the second rank, and none on the first."""

    def folding(batch: Batch) -> Views:
        return replace(make_views(batch), facts={"fold_fraction": torch.tensor(0.5 * rank())})

    progress, watch = Progress(), CollapseWatch(WatchConfig())
    hook = metrics_hook(folder / "metrics.jsonl", every=1, progress=progress, watch=watch)
    train(local(), batches(), folding, progress=progress, steps=1, hooks=[hook])


def test_hooks_see_every_step_in_order() -> None:
    seen: list[tuple[str, int, bool]] = []

    def hook(name: str) -> Any:
        return lambda step: seen.append((name, step.progress.step, step.last))

    train(local(), batches(), make_views, progress=Progress(), steps=2, hooks=[hook("a"), hook("b")])
    assert seen == [("a", 1, False), ("b", 1, False), ("a", 2, True), ("b", 2, True)]


def test_a_stream_that_ends_early_is_an_error() -> None:
    with pytest.raises(TrainingStopped, match="step 2: the stream ended, 3 steps too early"):
        train(local(), batches(steps=2), make_views, progress=Progress(), steps=5)


def test_a_loss_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    def poisoned(batch: Batch) -> Views:
        views = make_views(batch)
        return replace(views, images=views.images * math.nan)

    def save(progress: Progress) -> None:
        raise AssertionError("saved")

    with pytest.raises(TrainingStopped, match=r"step 1: invariance, .* not finite"):
        train(local(), batches(), poisoned, progress=Progress(), steps=5, hooks=[checkpoint_hook(every=1, save=save)])


def test_waiting_for_data_is_measured() -> None:
    seen: list[Step] = []
    asked = threading.Event()
    asked.set()

    def slow() -> Any:
        for batch in batches():
            asked.wait()  # not while the step before is taken
            asked.clear()
            time.sleep(0.2)
            yield batch

    def hook(step: Step) -> None:
        seen.append(step)
        asked.set()

    train(local(), slow(), make_views, progress=Progress(), steps=2, hooks=[hook])
    assert all(0.2 <= step.waiting.idle_s() < step.total_s for step in seen)


def test_what_others_counted_is_in_the_rows(tmp_path: Path) -> None:
    counted = iter([{"quarantined": 1}, {"quarantined": 3}])
    progress, watch = Progress(), CollapseWatch(WatchConfig())
    hook = metrics_hook(
        tmp_path / "metrics.jsonl", every=1, progress=progress, watch=watch, counts=lambda: next(counted)
    )
    train(local(), batches(), make_views, progress=progress, steps=2, hooks=[hook])
    assert [row["quarantined"] for row in rows(tmp_path)] == [1, 3]
