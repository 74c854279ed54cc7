"""The equivariant half of SIE (arXiv:2302.10283)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.precision import in_float32


@in_float32
def equivariance_loss(prediction: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean squared error of the second view's embedding as predicted from the first and the transformation; 0 or more.

    Gradients flow into both sides: `target` is not detached. Over this rank's rows; the mean over ranks is the value of
    the global batch.
    """
    return F.mse_loss(prediction, target)
