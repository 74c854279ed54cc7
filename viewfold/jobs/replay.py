"""One view of a training again: the pixels that it learned from, and every number that made them."""

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from viewfold.augment.multiview import make_views
from viewfold.augment.policies import PolicyConfig
from viewfold.augment.view import describe, draw_view
from viewfold.config import dump, fingerprint, load, unknown
from viewfold.errors import InvalidInput
from viewfold.jobs.data import DataConfig, source
from viewfold.jobs.preview import require_picture_path
from viewfold.jobs.run import identity
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.run_folder import Run
from viewfold.jobs.stages import STAGES
from viewfold.jobs.train_config import TrainConfig
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.partners import Partners
from viewfold.pipeline.stage import RECORD, STARTED, code_version, read_record, write_whole
from viewfold.pipeline.stream import position_of, sample_batch
from viewfold.ssl.ahead import with_views

TRAININGS = ("pretrain", "adapt")

_MOST_EPOCHS = 1 << 31
_COMPARED_KEYS = 20_000
"""Keys that are compared with one that is not there, to suggest the nearest: a second's work."""


@dataclass(frozen=True)
class Trained:
    """What one training of a run was given."""

    config: TrainConfig
    data: DataConfig
    manifest: ShardManifest
    """The samples of `data`."""
    all_samples: ShardManifest
    """What was indexed: with those that `data` leaves out."""
    partners: Partners | None = None
    """Whom each sample was shown with, where it was trained on mined pairs."""


@dataclass(frozen=True)
class Replayed:
    """One view, as it was handed to the method."""

    pixels: Tensor
    """float32 `[3, height, width]` in 0..1."""
    facts: dict[str, Any]
    """All that it is a function of, and what was drawn: plain data."""


def replay(folder: Path, *, key: str, epoch: int, view: int, stage: str, out: Path | None) -> str:
    """Write the view as a PNG, its facts as JSON beside it; returns what is said about it.

    Raises:
        InvalidInput: no such run, stage, sample, epoch or view, or no place to write to.
        ShardError: the sample's shard is gone or changed.
    """
    trained = open_training(folder, stage)
    row = find_row(trained, key)
    path = out or Path(f"{'-'.join(trained.manifest.key(row).split('/'))}.epoch{epoch}.view{view}.png")
    beside = path.with_suffix(".json")
    require_picture_path(path)
    if beside.exists() and not path.exists():
        raise InvalidInput(f"{beside}: exists and belongs to no picture of that name; choose another --out")
    replayed = replay_view(trained, row=row, epoch=epoch, view=view)
    facts = {"run": str(folder), "stage": stage, **replayed.facts}
    pixels = (replayed.pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    text = json.dumps(facts, indent=1) + "\n"
    write_whole(beside, lambda file: file.write(text.encode()))
    write_whole(path, lambda file: Image.fromarray(pixels).save(file, "PNG"))
    if facts["step"] is None or facts["step"] >= trained.config.steps:
        print(
            f"note: {stage} ended before it saw this view; it is what epoch {epoch} would have shown", file=sys.stderr
        )
    return f"{path}   parameters: {beside}"


def open_training(folder: Path, stage: str) -> Trained:
    """What `stage` of a run trained on, whether it is finished, under way or was cut.

    Raises:
        InvalidInput: not a run folder, no such training in it, or one that was not made with what the folder says now.
    """
    if stage not in TRAININGS:
        raise unknown("stage", stage, TRAININGS)
    run = Run(_config(folder), folder, folder.parent, ExitStack())
    config = run.config.adapt if stage == "adapt" else run.config.pretrain
    if config is None:
        raise InvalidInput(f"{folder}: run {run.config.name!r} has no stage {stage!r}; it has 'pretrain'")
    data = run.adapt_sources() if stage == "adapt" else run.sources()
    manifest = source(run.manifest(), data)
    _require_same(run, stage, manifest)
    paired = stage == "adapt" and run.config.mine is not None
    partners = Partners.load(run.folder / "mine", manifest) if paired else None
    return Trained(config, data, manifest, ShardManifest.load(run.manifest()), partners)


def find_row(trained: Trained, key: str) -> int:
    """Row of the sample `key`, given with its shard or, where that is unique, without.

    Raises:
        InvalidInput: no such sample, several, or one that the training left out; names the nearest ones.
    """
    rows = _rows(trained.manifest, key)
    if len(rows) == 1:
        return rows[0]
    if rows:
        full = [trained.manifest.key(row) for row in rows]
        raise InvalidInput(f"sample {key!r} is in {len(rows)} shards; say which: {_listed(full)}")
    if hidden := _rows(trained.all_samples, key):
        what = trained.all_samples.key(hidden[0])
        raise InvalidInput(f"sample {what!r} is not one of those that were trained on: {_why(trained, hidden[0])}")
    near = difflib.get_close_matches(key, islice(_names(trained.manifest, key), _COMPARED_KEYS), n=3)
    hint = f"did you mean {_listed(near)}?" if near else f"keys look like {trained.manifest.key(0)!r}"
    raise InvalidInput(f"no sample {key!r} among the {len(trained.manifest)} that were trained on; {hint}")


def replay_view(trained: Trained, *, row: int, epoch: int, view: int) -> Replayed:
    """View number `view` of the sample `row` in `epoch`, bit for bit on a device of the same kind.

    Raises:
        InvalidInput: a negative epoch, or a view that the training does not make.
    """
    config, manifest = trained.config, trained.manifest
    if not 0 <= epoch < _MOST_EPOCHS:
        raise InvalidInput(f"epoch must lie in 0..{_MOST_EPOCHS - 1}, got {epoch}")
    step, place = position_of(manifest, config.stream, row, epoch, partners=trained.partners) or (None, 0)
    # In all rows of a worker's batch, at the place it had: kernels compiled for one row may round otherwise (3e-7).
    size = config.stream.batch_size // config.workers
    batch = sample_batch(manifest, config.stream, row, epoch, size=size, partners=trained.partners)
    place %= size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # where `train_encoder` puts its workers
    views_of = partial(make_views, policy=config.policy, seed=config.seed, device=device, compiled=config.compile_views)
    with closing(with_views(iter([batch]), views_of, device)) as coming:  # on as many threads as in the training
        views = next(coming)[1]()
    if not 0 <= view < len(views.images):
        raise InvalidInput(f"view must lie in 0..{len(views.images) - 1}, the views of each sample; got {view}")
    draws = draw_view(config.policy, seed=config.seed, epochs=[epoch], samples=batch.keys[:1], view=view, device=device)
    height, width = views.images.shape[-2:]
    folds = describe(config.policy, draws, height=height, width=width).fold_fraction
    shown = view % len(batch.members)
    member, owner = int(batch.members[shown, 0]), row
    if batch.partners is not None and shown == 1:
        owner = int(batch.partners[0])
    facts = {
        "key": batch.keys[0],
        "epoch": epoch,
        "view": view,
        "step": step,
        "seed": config.seed,
        "member": member,
        "image": manifest.image_key(owner, member),
        "manifest_hash": manifest.hash,
        "code_version": code_version(),
        "device": device.type,
        "compiled": config.compile_views,
        "policy": dump(config.policy),
        "params": {} if views.params is None else _named(views.names, views.params[view, place]),
        **({"fold_fraction": _number(folds[0])} if folds is not None else {}),
        "draws": grouped_draws(config.policy, draws[0]),
    }
    return Replayed(views.images[view, place].cpu(), facts)


def grouped_draws(policy: PolicyConfig, draws: Tensor) -> list[dict[str, Any]]:
    """The numbers of each family in the policy's order; a column `FIELD PART` is found as `["FIELD"]["PART"]`."""
    transforms = policy.transforms()
    parts = torch.split(draws, [len(transform.names) for transform in transforms])
    grouped = []
    for transform, part in zip(transforms, parts, strict=True):
        numbers: dict[str, Any] = {}
        for name, value in _named(transform.names, part).items():
            field, space, column = name.partition(" ")
            if space:
                numbers.setdefault(field, {})[column] = value
            else:
                numbers[name] = value
        grouped.append({"family": type(transform).__name__, **numbers})
    return grouped


def _config(folder: Path) -> RunConfig:
    if not _is_run(folder):
        near = [str(path) for path in (folder.parent, *sorted(folder.glob("*/"))) if _is_run(path)]
        hint = f"; did you mean {_listed(near)}?" if near else "; `viewfold run RECIPE` makes one"
        raise InvalidInput(f"{folder}: not a run folder{hint}")
    return load(RunConfig, folder / "config.yaml")


def _is_run(folder: Path) -> bool:
    return (folder / "environment.json").is_file() and (folder / "config.yaml").is_file()


def _require_same(run: Run, stage: str, manifest: ShardManifest) -> None:
    """`config.yaml` is written at every call, stages are not: what was trained may be other than what it says."""
    settings = STAGES[stage].settings(run.config)
    record, started = run.folder / stage / RECORD, run.folder / f"{stage}.part" / STARTED
    if not record.is_file() and not started.is_file():
        again = f"viewfold {stage} {run.folder / 'config.yaml'} --out {run.folder}"
        raise InvalidInput(f"{run.folder}: {stage} has not begun: {again}")
    if record.is_file():
        made = _read_json(record)
        same = made["fingerprint"] == fingerprint(stage, settings, made["inputs"], made["code_version"])
        if (
            same
            and made["result"]["manifest_hash"] == manifest.hash
            and _mined(run, stage) == made["inputs"].get("mine")
        ):
            _note_code(record.parent, made["code_version"])
            return
    if started.is_file():
        inputs = {**STAGES[stage].reads(run), **_upstream(run, stage)}
        mark = fingerprint(stage, settings, inputs, code_version())
        if started.read_text(encoding="utf-8") == mark:
            return
    raise InvalidInput(
        f"{run.folder}: {stage} was trained with other settings, samples or code than there are now; "
        "run it again, or put them back"
    )


def _mined(run: Run, stage: str) -> str | None:
    """Identity of the pairs that lie there now, where the stage trains on any."""
    record = read_record(run.folder / "mine") if stage == "adapt" and run.config.mine is not None else None
    return None if record is None else record.id


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{path}: damaged ({error}); delete its folder and run the stage again") from None
    return data


def _upstream(run: Run, stage: str) -> dict[str, str]:
    records = {need: run.folder / need / RECORD for need in STAGES[stage].needs}
    return {need: identity(need, record) for need, path in records.items() if (record := read_record(path.parent))}


def _note_code(folder: Path, made_by: str) -> None:
    if made_by != code_version():
        print(
            f"note: {folder} was trained by viewfold {made_by}, this is {code_version()}: the view is the same one "
            "unless what draws it has changed in between",
            file=sys.stderr,
        )


def _rows(manifest: ShardManifest, key: str) -> list[int]:
    """Rows whose identity is `key`, or else whose key within the shard is."""
    within = [row for row in range(len(manifest)) if key.endswith(manifest.samples.key(row))]
    exact = [row for row in within if manifest.key(row) == key]
    return exact or [row for row in within if manifest.samples.key(row) == key]


def _names(manifest: ShardManifest, key: str) -> Iterator[str]:
    """What a mistyped `key` may have been meant for: keys of the shard that it names, or of all."""
    shards = [shard.name for shard in manifest.shards]
    rows: Iterable[int] = range(len(manifest))
    if (shard := key.partition("/")[0]) in shards:
        rows = np.flatnonzero(manifest.samples.shard(np.arange(len(manifest))) == shards.index(shard)).tolist()
    return (manifest.key(row) if "/" in key else manifest.samples.key(row) for row in rows)


def _why(trained: Trained, row: int) -> str:
    """Which filter left it out."""
    index, data = trained.all_samples.domain[row], trained.data
    domain = trained.all_samples.domains[index] if index >= 0 else ""
    if domain in data.without_domains or (data.domains and domain not in data.domains):
        return f"its domain {domain!r} is left out"
    return "it has no label"


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _named(names: tuple[str, ...], values: Tensor) -> Mapping[str, float]:
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def _number(value: Tensor) -> float:
    """The shortest decimal that is read back as this float32."""
    return float(str(np.float32(value.item())))
