"""The verb `evaluate` for an encoder and labelled shards: its card, kept on the tracking server too."""

from collections.abc import Sequence
from pathlib import Path

from viewfold.config import dump, override
from viewfold.errors import InvalidInput
from viewfold.jobs.card_sets import evaluation_sets
from viewfold.jobs.card_text import summary
from viewfold.jobs.evaluate import CARD, PAGE, Candidate, evaluate_encoders
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.registry import Registry
from viewfold.jobs.tracking import keep_card


def evaluate_folder(
    encoder: str,
    shards: Sequence[str],
    settings: Sequence[str] = (),
    *,
    train: Sequence[str],
    against: str | None,
    out: Path | None,
    home: Path,
) -> str:
    """Measure an encoder on `shards` and write its card into `out`; returns what is said about it.

    Without `out` it goes below `home`, into `cards/` and the encoder's id.

    `encoder` and `against` are encoder folders, run folders, or `models:/name@alias` in the registry of `home`. Heads
    are fitted on `train`, or else on one half of `shards`, whose other half is asked; no group lies in both.

    Raises:
        InvalidInput: no encoder or no shards there, settings that do not exist, `out` in use by something else.
    """
    config = override(EvaluateConfig(), settings)
    candidates = {"trained": find_candidate(encoder, home)}
    identity = str(candidates["trained"].encoder.id)
    out = out or home / "cards" / identity
    if out.is_dir() and any(out.iterdir()) and not (out / CARD).is_file():
        raise InvalidInput(f"{out}: holds other things than a card; name another folder with --out")
    if against is not None:
        candidates["against"] = find_candidate(against, home)
    candidates["untrained"] = candidates["trained"].untrained()
    with evaluation_sets(shards, train, config.seed) as (known, asked):
        out.mkdir(parents=True, exist_ok=True)
        card = evaluate_encoders(candidates, train=known, val=asked, config=config, out=out)
    files = {"card": [out / CARD, out / PAGE]}
    keep_card(Registry(home), home, f"evaluate/{identity}", card, files, params=dump(config))
    return f"{summary(card)}\ncard: {(out / PAGE).resolve()}   numbers: {out / CARD}"


def find_candidate(name: str, home: Path) -> Candidate:
    """An encoder by folder, run folder or registered name.

    Raises:
        InvalidInput: there is none.
    """
    if name.startswith("models:/"):
        return Candidate.load(Registry(home).resolve(name).encoder)
    folder = Path(name)
    stages = (folder / stage / "encoder" for stage in ("adapt", "pretrain", "start"))
    for place in (folder, folder / "encoder", *stages):
        if (place / "encoder.json").is_file():
            return Candidate.load(place)
    raise InvalidInput(
        f"{name}: no encoder there; name an encoder folder, a run folder or models:/NAME@champion, or a recipe "
        "(`viewfold recipe list`)"
    )
