"""A linear classifier on frozen features: what they make linearly readable."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate.accuracy import accuracy_measures
from viewfold.ssl.evaluate.chance import most_frequent
from viewfold.ssl.evaluate.measure import Measure, Split


def linear_accuracy(
    train: Split, val: Split, *, l2: float = 1e-2, max_iterations: int = 200, seed: int = 0
) -> list[Measure]:
    """Top-1 and (with more than five classes) top-5 of a linear classifier fitted to `train`, plain and balanced.

    Features are standardised by the mean and deviation of `train`. The fit is the optimum of a convex problem, so it
    has no seed; `seed` is the bootstrap's. Chance ranks the classes by their frequency in `train`.

    Raises:
        InvalidInput: no labels, or a single class in `train`.
    """
    fitted, asked = train.labelled(), val.labelled()
    classes, target = torch.unique(fitted.label, return_inverse=True)
    if len(classes) < 2:
        raise InvalidInput(f"linear probe: the {len(fitted.label)} training samples have one class; two are needed")
    weight, mean, deviation = fit_softmax(fitted.features, target, l2=l2, max_iterations=max_iterations)
    logits = _with_ones((asked.features - mean) / deviation) @ weight
    detail = {
        "l2": l2,
        "num_train": len(fitted.label),
        "train_classes": len(classes),
        "unlabelled": len(val.label) - len(asked.label),
    }
    measures = []
    for top in (1, 5) if len(classes) > 5 else (1,):
        hits = _in_top(logits, classes, asked.label, top)
        blind = torch.isin(asked.label, most_frequent(fitted.label, top))
        name = f"linear/top{top}"
        measures += accuracy_measures(name, asked, hits, blind_hits=blind, seed=seed, detail=detail)
    return measures


def fit_softmax(
    features: Float[Tensor, "row dim"], target: Int[Tensor, " row"], *, l2: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `[dim + 1, class]` (bias last) on standardised features, with the mean and deviation that do it.

    Minimises mean cross-entropy + l2 / 2 * |weights|^2, bias free, by L-BFGS on all rows, from zero.
    """
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    deviation = deviation.clamp(min=1e-6)  # a dead channel stays at zero
    rows = _with_ones((features - mean) / deviation)
    weight = torch.zeros(rows.shape[1], int(target.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=max_iterations, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(rows @ weight, target) + l2 / 2 * weight[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return weight.detach(), mean, deviation


def _in_top(logits: Tensor, classes: Tensor, label: Tensor, top: int) -> Tensor:
    """Whether each row's own class is among the `top` largest logits; a class never trained on is never there."""
    column = torch.searchsorted(classes, label).clamp(max=len(classes) - 1)
    own = logits.gather(1, column[:, None])
    return ((logits > own).sum(dim=1) < top) & (classes[column] == label)


def _with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
