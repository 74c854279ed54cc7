"""Training behind a frozen backbone: every image passes it once, and the steps read its features from memory.

The order of the samples is that of the stream, step by step. What a stream does beyond it (drawn views, pairs,
tolerated bad samples, a ledger of what was read) needs the images at every step, so such a training reads them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from viewfold.augment import PolicyConfig
from viewfold.config import fingerprint
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.order import Places
from viewfold.pipeline.stage import write_whole
from viewfold.pipeline.state import StreamState, stream_state
from viewfold.pipeline.stream import check_stream
from viewfold.pipeline.stream_config import StreamConfig, make_order
from viewfold.ssl.dist import gather_values, rank, sum_over_ranks, world_size
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.trainable import TrainableConfig
from viewfold.values import Batch, Views

_BLOCK = 256  # images encoded at a time


def reads_features(
    train: TrainableConfig, policy: PolicyConfig, stream: StreamConfig, manifest: ShardManifest, *, paired: bool
) -> bool:
    """Whether a training sees the same features of a sample at every step, so that they can be kept."""
    same = train.adapter is not None and not policy.transforms() and not paired
    single = stream.images_per_sample == 1 and len(manifest.samples.fewer_images(2)) == len(manifest)
    return same and single and not stream.max_bad_share and not stream.ledger


def base_features(encoder: Encoder, manifest: ShardManifest, image_size: int, *, kept: Path | None) -> Tensor:
    """float32 `[sample, dim]` on the CPU: what the backbone makes of samples of one image each. A call of all ranks.

    Every rank encodes its share and gets those of the others. With `kept`, a folder on storage that the ranks share,
    the features are read from there if they are there already, and left there otherwise.

    Raises:
        ShardError: an image that cannot be read.
    """
    path = None if kept is None else kept / f"{fingerprint(encoder.id, manifest.hash, image_size)}.safetensors"
    device = next(encoder.parameters()).device
    # Rank 0 looks, and all do the same: one alone would wait for the others for ever.
    there = path is not None and rank() == 0 and path.is_file()
    if path is not None and sum_over_ranks(torch.tensor([float(there)], device=device)).item():
        return load_file(path)["features"]
    share = -(-len(manifest) // world_size())
    rows = range(rank() * share, min((rank() + 1) * share, len(manifest)))
    own = torch.zeros(share, encoder.base_dim)
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        own[first : first + len(block)] = _encoded(encoder, manifest, block, image_size)
    every = gather_values(own.to(device)).cpu()[: len(manifest)]
    if path is not None and rank() == 0:
        data = save({"features": every.contiguous()})
        write_whole(path, lambda file: file.write(data))
    return every


class FrozenStream(Iterator[Batch]):
    """One rank's batches of features in the order of the stream, from one step on."""

    num_bad = 0
    """None: an image that cannot be read ends the run before its first step."""

    def __init__(
        self,
        manifest: ShardManifest,
        config: StreamConfig,
        features: Tensor,
        *,
        rank: int,
        world_size: int,
        steps: range,
    ) -> None:
        check_stream(manifest, config, world_size=world_size)
        self._manifest, self._config, self._features = manifest, config, features
        self._order = make_order(manifest, config)
        local = config.batch_size // world_size
        self._places = rank * local, (rank + 1) * local
        self._steps = iter(steps)
        columns = manifest.label, manifest.domain, manifest.group
        self._names = [torch.from_numpy(np.asarray(column, np.int64)) for column in columns]
        self.num_repeated = 0
        """Places of this rank so far that hold a sample again, only to fill a batch."""

    def state(self, step: int) -> StreamState:
        """Where the stream stands before the batch of `step`; the same as that of a stream of images."""
        return stream_state(self._order, self._manifest.hash, self._config, step)

    def __next__(self) -> Batch:
        places: Places = self._order.places(next(self._steps), *self._places)
        self.num_repeated += int(places.repeated.sum())
        rows = torch.from_numpy(places.rows)
        label, domain, group = (column[rows] for column in self._names)
        return Batch(
            images=self._features[rows][None],
            keys=[self._manifest.key(row) for row in places.rows.tolist()],
            rows=rows,
            epochs=torch.from_numpy(places.epochs),
            members=torch.zeros(1, len(rows), dtype=torch.long),
            label=label,
            domain=domain,
            group=group,
            latents=None,
        )


def feature_views(batch: Batch, device: torch.device | str) -> Views:
    """A batch of features as the one view that an encoder takes them for."""
    return Views(
        images=batch.images.to(device, non_blocking=True),
        params=None,
        names=(),
        label=batch.label.to(device),
        domain=batch.domain.to(device),
        group=batch.group.to(device),
    )


@torch.no_grad()
def _encoded(encoder: Encoder, manifest: ShardManifest, rows: range, image_size: int) -> Tensor:
    device, training, parts = next(encoder.parameters()).device, encoder.training, []
    encoder.eval()
    for batch in read_images(manifest, rows, image_size=image_size, batch_size=_BLOCK):
        parts.append(encoder.base(batch.images.to(device).float() / 255).float().cpu())
    encoder.train(training)
    return torch.cat(parts)
