"""Features as the published probes of SIE see them: BatchNorm of the frozen encoder by the statistics of each batch.

Those probes put the whole model into training mode, so BatchNorm normalises the images that the head is fitted to by
their own batch and its running statistics drift; the validation images are then normalised by the drifted ones
(arXiv:2302.10283's code). A frozen encoder is `Encoder.encode`, for both splits. A score says which of the two it was.
"""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from viewfold.errors import InvalidInput
from viewfold.keyed import key64
from viewfold.ssl.encoder import Encoder, Features


@torch.no_grad()
def with_batch_statistics(encoder: Encoder, batches: Iterable[Tensor], *, seed: int = 0) -> tuple[Features, Encoder]:
    """Training features under each batch's own statistics, and the encoder whose running statistics drifted meanwhile.

    `batches` are uint8 images `[image, 3, height, width]`, in the order of the rows that come back. Shuffle them: the
    images of a batch change each other's features. A batch of one image joins the one before it. The published protocol
    passes all training objects in batches of 256 in each of 300 epochs; with momentum 0.1 the drift is complete after
    50 batches (0.5 % of the old statistics is left), so from fewer the two are mixed. Other layers (dropout, by `seed`)
    are in training mode too. The encoder given stays as it is; the one returned is a copy in evaluation mode, with its
    `id`, to `encode` the validation images.

    Raises:
        InvalidInput: the encoder has no BatchNorm, or there are fewer than two images.
    """
    if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in encoder.modules()):
        raise InvalidInput(f"backbone {encoder.config.backbone!r} has no BatchNorm: probe it frozen")
    drifted = copy.deepcopy(encoder).train()
    device = next(drifted.parameters()).device
    rows = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key64("batch statistics", seed))
        for images in _without_single_images(batches):
            rows.append(drifted(images.to(device).float() / 255).float().cpu())
    every = torch.cat(rows)
    invariant, equivariant = (every[:, encoder.parts[name]] for name in ("invariant", "equivariant"))
    return Features(invariant, equivariant, every), drifted.eval()


def _without_single_images(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """One image has no statistics of its own where the layers have shrunk it to one pixel."""
    held = torch.empty(0)
    for batch in batches:
        if len(held) > 1 and len(batch) > 1:
            yield held
            held = batch
        else:
            held = torch.cat([held, batch]) if len(held) else batch
    if len(held) < 2:
        raise InvalidInput(f"batch statistics need two images or more, got {len(held)}; check the training shards")
    yield held
