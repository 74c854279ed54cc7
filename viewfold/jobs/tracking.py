"""Runs on a tracking server as a stage sees them: kept on disk at once, sent by a thread, never waited for."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from viewfold.jobs.courier import Courier
from viewfold.jobs.outbox import KEPT, About, Outbox
from viewfold.jobs.registry import Registry
from viewfold.jobs.registry_server import EXPERIMENT, shown
from viewfold.jobs.system_metrics import sampled
from viewfold.pipeline.stage import STARTED

PATIENCE_S = 5.0
"""How long the end of a stage waits, at most, for what was not sent yet."""
FILE_PATIENCE_S = 60.0
"""The same for a local file, which is never gone, and takes seconds to be made."""


@contextmanager
def track(
    registry: Registry,
    folder: Path,
    name: str,
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    files: Mapping[str, Sequence[Path]],
    stage: Path | None = None,
) -> Iterator[Outbox]:
    """An outbox whose rows reach the server while the block runs; it is finished after it, or failed by an error.

    What a server does not take in time stays in `folder/tracking`; a warning says so, and the next call with this
    folder sends it, as does `viewfold sync`. `files` go along, by their folders on the server. `stage` is the folder
    of work that goes on where it was cut: its run on the server then goes on, too.
    """
    about = About(
        experiment=EXPERIMENT,
        name=name,
        params=flat(params),
        tags=dict(tags),
        uri=shown(registry.uri),
        home=str(registry.home),
    )
    box = Outbox.begin(folder / KEPT, about, files, resume=None if stage is None else _mark(stage))
    courier = Courier(folder / KEPT, registry.uri)
    try:
        yield box
    except BaseException:
        box.end("FAILED")
        raise
    else:
        box.end("FINISHED")
    finally:
        courier.stop(FILE_PATIENCE_S if registry.uri.startswith("sqlite:") else PATIENCE_S)
        if courier.failure:
            print(
                f"warning: {courier.failure}; {name} is kept in {folder / KEPT} and "
                f"sent by the next stage, or by `viewfold sync {folder}`",
                file=sys.stderr,
            )


@contextmanager
def track_training(
    registry: Registry, out: Path, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[Outbox]:
    """As `track`, for a training that fills the stage folder `out`: what this machine does meanwhile is kept, too."""
    folder = out.parent
    files = {"": settings_of(folder)}
    with (
        track(registry, folder, name, params=params, tags=tags, files=files, stage=out) as box,
        sampled(box.log_system, folder),
    ):
        yield box


def keep_card(
    registry: Registry,
    folder: Path,
    name: str,
    card: Mapping[str, Any],
    files: Mapping[str, Sequence[Path]],
    *,
    params: Mapping[str, Any],
) -> None:
    """Send a card as a run `name`: the measures of its `trained` encoder, and `files`. See `track` for the rest."""
    encoder_id = str(card["encoders"]["trained"]["id"])
    tags = {"encoder_id": encoder_id, "manifest_hash": str(card["data"]["val"]["manifest_hash"])}
    with track(registry, folder, name, params=params, tags=tags, files=files) as box:
        box.log_row({measure["name"]: measure["value"] for measure in card["measures"]["trained"]})


def settings_of(folder: Path) -> list[Path]:
    """The files in a run folder that say what was run by what: the whole configuration, the environment."""
    return [file for name in ("config.yaml", "environment.json") if (file := folder / name).is_file()]


def _mark(stage: Path) -> str:
    """What is the same for a stage that goes on, and not for one that begins again with other settings or code."""
    started = stage / STARTED
    return started.read_text(encoding="utf-8") if started.is_file() else ""


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested plain data as dotted names, which is how MLflow shows parameters."""
    found: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = str(value)
    return found
