"""The verb `evaluate` for an encoder and labelled shards: its card, kept on the tracking server too."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from viewfold.config import dump, override
from viewfold.errors import InvalidInput
from viewfold.jobs.data import locate
from viewfold.jobs.evaluate import CARD, PAGE, Candidate, evaluate_encoders
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.registry import Registry
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import MANIFEST_NAME, ShardManifest
from viewfold.pipeline.order.split import split_groups

ASKED_SHARE = 0.5
"""Of the samples, when heads are to be fitted on the rest of the same shards."""


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
    with _manifests(shards, train, config.seed) as (known, asked):
        out.mkdir(parents=True, exist_ok=True)
        card = evaluate_encoders(candidates, train=known, val=asked, config=config, out=out)
    files = [out / CARD, out / PAGE]
    Registry(home).keep_card(f"evaluate/{identity}", card, files, params=dump(config), encoder_id=identity)
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


def summary(card: dict[str, Any]) -> str:
    """The card's measures as a table of text: each encoder's value with its interval, and chance."""
    names = list(card["measures"])
    tables = {name: {measure["name"]: measure for measure in card["measures"][name]} for name in names}
    rows = [["measure", *names, "chance"]]
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        found = [table.get(name) for table in tables.values()]
        chance = next(measure["chance"] for measure in found if measure)
        rows.append([name, *map(_cell, found), f"{chance:z.3f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{one['encoder']}, no {one['what']}: {one['why']}" for one in card["skipped"]]
    return "\n".join(lines)


def _cell(measure: dict[str, Any] | None) -> str:
    if measure is None:
        return "-"
    interval = "" if measure["low"] is None else f" [{measure['low']:z.3f}, {measure['high']:z.3f}]"
    return f"{measure['value']:z.3f}{interval}"


@contextmanager
def _manifests(shards: Sequence[str], train: Sequence[str], seed: int) -> Iterator[tuple[ShardManifest, ShardManifest]]:
    """What heads are fitted on, and what is asked."""
    with tempfile.TemporaryDirectory(prefix="viewfold-") as folder:
        asked = _manifest(shards, Path(folder) / "asked")
        if train:
            yield _manifest(train, Path(folder) / "train"), asked
            return
        halves = split_groups(asked.group, names=asked.groups, key=asked.samples.key, share=ASKED_SHARE, seed=seed)
        yield asked.take(halves.pool), asked.take(halves.query)


def _manifest(shards: Sequence[str], out: Path) -> ShardManifest:
    if len(shards) == 1 and (Path(shards[0]).name == MANIFEST_NAME or (Path(shards[0]) / MANIFEST_NAME).is_file()):
        return ShardManifest.load(Path(shards[0]))
    out.mkdir()
    return index_shards(locate(tuple(shards)), out)
