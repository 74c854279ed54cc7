"""Where a stream stands: a few integers in every checkpoint, and whether they are those of the data at hand."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from viewfold.config import fingerprint
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.order import Order
from viewfold.pipeline.partners import Partners
from viewfold.pipeline.stage import write_whole
from viewfold.pipeline.stream_config import StreamConfig

STATE_NAME = "stream.json"


@dataclass(frozen=True)
class StreamState:
    """All that a run needs to go on with the exact next sample, on any number of ranks and loader processes."""

    epoch: int
    """Of the next sample."""
    samples: int
    """Consumed by all ranks since the beginning."""
    batch_size: int
    manifest_hash: str
    order: str
    """Fingerprint of the settings that decide the order."""
    pairs: str = ""
    """Hash of the mined pairs that are shown; empty where there are none."""


def stream_state(order: Order, manifest_hash: str, config: StreamConfig, step: int, *, pairs: str = "") -> StreamState:
    """Where a stream stands before the batch of `step`."""
    epoch = int(order.places(step, 0, 1).epochs[0])
    return StreamState(epoch, step * config.batch_size, config.batch_size, manifest_hash, _order_mark(config), pairs)


def step_of(state: StreamState, manifest: ShardManifest, config: StreamConfig, partners: Partners | None = None) -> int:
    """The step at which a stream that stood at `state` goes on.

    Raises:
        ArtifactMismatch: the data, the pairs, the batch size or the order are not those that the state was made with.
    """
    if state.manifest_hash != manifest.hash:
        raise ArtifactMismatch(
            f"the checkpoint was made on data {state.manifest_hash}, the manifest is {manifest.hash}: going on would "
            "show some samples twice and others never; bring the old data back, or train in a new folder"
        )
    pairs = "" if partners is None else partners.hash
    if state.pairs != pairs:
        raise ArtifactMismatch(
            f"the checkpoint was made on {_named(state.pairs)}, there are {_named(pairs)} now: samples would be shown "
            "in another order, beside others; bring the old pairs back, or train in a new folder"
        )
    if (state.batch_size, state.order) != (config.batch_size, _order_mark(config)):
        raise ArtifactMismatch(
            f"the checkpoint was made with batch_size={state.batch_size} and order {state.order}, the stream has "
            f"batch_size={config.batch_size} and order {_order_mark(config)} (of seed, lanes, block, tail, "
            "classes_per_batch); give the old settings back, or train in a new folder"
        )
    return state.samples // state.batch_size


def write_state(folder: Path, state: StreamState) -> None:
    """Into a checkpoint, as `stream.json`."""
    text = json.dumps(asdict(state), indent=1) + "\n"
    write_whole(folder / STATE_NAME, lambda file: file.write(text.encode()))


def read_state(folder: Path) -> StreamState:
    """From a checkpoint.

    Raises:
        InvalidInput: it has none, or one that cannot be read.
    """
    path = folder / STATE_NAME
    try:
        return StreamState(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InvalidInput(f"{path}: no state of a stream; train in a new folder") from None


def _named(pairs: str) -> str:
    return f"the mined pairs {pairs}" if pairs else "no mined pairs"


def _order_mark(config: StreamConfig) -> str:
    return fingerprint("order", config.seed, config.lanes, config.block, config.tail, config.classes_per_batch)
