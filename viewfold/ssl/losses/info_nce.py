"""InfoNCE over two views, as SimCLR has it (arXiv:2002.05709, eq. 1). N: rows of all ranks."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.dist import gather_rows, rank
from viewfold.ssl.precision import in_float32


@in_float32
def info_nce_loss(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"], *, tau: float = 0.1
) -> Float[Tensor, ""]:
    """Mean nats needed to tell each embedding's other view among all 2N - 1 other embeddings; 0 or more.

    Rows are L2-normalised here, logits are cosines divided by `tau`. All 2N rows are anchors, and an anchor's negatives
    are the rows of both views: where `a` is a prediction, predictions repel each other too.
    `a` and `b` hold this rank's rows; the mean over ranks is the value of the global batch.
    """
    own = F.normalize(torch.stack([a, b]), dim=2)
    every = gather_rows(own.transpose(0, 1)).transpose(0, 1)  # one message for both views
    num_rows = every.shape[1]
    row = rank() * len(a) + torch.arange(len(a), device=a.device)
    itself, other_view = torch.cat([row, row + num_rows]), torch.cat([row + num_rows, row])
    logits = own.flatten(0, 1) @ every.flatten(0, 1).T / tau
    return F.cross_entropy(logits.scatter(1, itself[:, None], -torch.inf), other_view)
