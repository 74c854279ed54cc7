"""The run of one night: the recipe from its beginning, or a shorter training that goes on from the champion."""

from collections.abc import Sequence
from dataclasses import replace

from viewfold.errors import InvalidInput
from viewfold.jobs.data_replay import ReplayConfig
from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.recipes import find
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.train_config import TrainConfig

_BATCHES = 4
"""That an epoch of a warm training has, where there are images enough."""


def night_run(config: NightlyConfig, *, champion: str | None, replay: Sequence[str]) -> RunConfig:
    """The recipe, registered as a challenger; with a `champion` (a version) its last training alone, begun from that.

    `replay` are the shards that the champion was trained on, of which a share is learned from again. A recipe that
    mines learns from all data: its pairs are of the whole.

    Raises:
        InvalidInput: a recipe that no nightly can be made of; says why.
    """
    recipe = find(config.recipe, config.settings)
    if recipe.index is None:
        raise InvalidInput(f"recipe {recipe.name!r} makes no index, so that there is nothing to serve; add `index`")
    for stage in ("pretrain", "adapt"):
        training: TrainConfig | None = getattr(recipe, stage)
        if training is not None and training.stream.ledger:
            raise InvalidInput(
                f"{stage}.stream.ledger: a ledger belongs to one run, and every night is one; leave it out"
            )
    named = replace(recipe, register_as=config.name, alias="challenger")
    return named if champion is None else _warm(named, config, champion, replay)


def _warm(recipe: RunConfig, config: NightlyConfig, champion: str, replay: Sequence[str]) -> RunConfig:
    last = recipe.adapt or recipe.pretrain
    if last is None:
        raise InvalidInput(f"recipe {recipe.name!r} trains nothing, so that new data would change nothing; add `adapt`")
    share = None
    if replay and recipe.mine is None:
        # A night with a handful of new images must still fill batches, with all classes in them; and new shards may
        # hold nothing to learn from, but domains that are held out or images without a label.
        least = _BATCHES * last.stream.batch_size
        share = ReplayConfig(
            shards=tuple(replay), share=config.replay_share, at_least=least, nothing_new="all"
        )  # fmt: skip
    return replace(
        recipe,
        data=replace(recipe.data, replay=share),
        start=f"models:/{config.name}/{champion}",
        encoder=None,
        pretrain=None,
        adapt=replace(last, steps=config.steps or last.steps),
    )
