"""A classifier on frozen features, to watch its answers change."""

from collections.abc import Callable

import torch
from torch import Tensor

from viewfold.ssl.evaluate.linear import fit_softmax
from viewfold.ssl.evaluate.measure import Split


def linear_classifier(train: Split, *, l2: float = 1e-2, max_iterations: int = 200) -> Callable[[Tensor], Tensor]:
    """The classifier of `linear_accuracy`, fitted to the labelled rows of `train`: features `[row, dim]` to labels.

    Raises:
        InvalidInput: no row has a label.
    """
    fitted = train.labelled()
    classes, target = torch.unique(fitted.label, return_inverse=True)
    weight, mean, deviation = fit_softmax(fitted.features, target, l2=l2, max_iterations=max_iterations)

    def predict(features: Tensor) -> Tensor:
        logits = (features - mean) / deviation @ weight[:-1] + weight[-1]
        chosen: Tensor = classes[logits.argmax(dim=1)]
        return chosen

    return predict
