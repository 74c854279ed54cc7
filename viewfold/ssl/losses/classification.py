"""Cross-entropy of a classifier that is trained beside a self-supervised objective."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.dist import mean_of_valid
from viewfold.ssl.precision import in_float32


@in_float32
def classification_loss(logits: Float[Tensor, "batch label"], label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, over the labelled rows of all ranks; 0 when no row is labelled (label -1).

    `logits` holds this rank's rows; the mean over ranks is the value of the global batch.
    """
    return mean_of_valid(F.cross_entropy(logits, label, ignore_index=-1, reduction="none"), label >= 0)
