"""How well the features of two views tell the transformation between them: the equivariance protocol of SIE."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.config import Config, dump
from viewfold.errors import InvalidInput
from viewfold.keyed import generator, key64
from viewfold.ssl.evaluate.interval import bootstrap
from viewfold.ssl.evaluate.measure import Measure, finite
from viewfold.ssl.geometry import relative_rotation

Rows = NDArray[np.floating[Any]]
_BLOCK = 4096  # pairs predicted at a time
_LOOK_EVERY = 10  # steps between looks at the objects that choose when to stop


@dataclass(frozen=True, kw_only=True)
class PairProbeConfig(Config):
    """The probe: an MLP with two hidden layers on the features of both views, as in arXiv:2302.10283, section 5."""

    hidden: int = 256
    """Width of its hidden layers; 1024 is the published one, at five times the cost on a CPU."""
    steps: int = 300
    """Adam steps at most; the published protocol makes 300 epochs, about 49 000 steps on 3DIEBench."""
    stop_share: float = 0.2
    """Share of the training objects that are kept out of the fit and choose the step to stop at; 0 makes every step, as
    published. With few objects a probe that is not stopped learns them by heart and scores far below chance."""
    batch_size: int = 256
    lr: float = 1e-3
    standardise: bool = True
    """Bring each channel to mean 0 and deviation 1 over the training images. The published protocol does not, which
    needs many more steps where the features are small."""

    def __post_init__(self) -> None:
        for name in ("hidden", "steps", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.stop_share <= 0.5:
            raise ValueError(f"stop_share must lie in 0..0.5, got {self.stop_share}")


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs of views, as rows of a table of features, with the transformation from the first to the second."""

    features: Tensor
    """float32 `[image, dim]`."""
    first: Tensor
    """int64 `[pair]`: row of the first view."""
    second: Tensor
    """int64 `[pair]`: row of the second view."""
    target: Tensor
    """float32 `[pair, k]`: the transformation, such as a relative quaternion."""
    group: Tensor
    """int64 `[pair]`: the object, what the bootstrap draws; -1 for none."""


def rotation_pairs(
    features: ArrayLike | Tensor,
    angles: ArrayLike | Tensor,
    objects: ArrayLike | Tensor,
    *,
    pairs_per_object: int,
    seed: int = 0,
) -> Pairs:
    """Pairs of views of the same object with their relative quaternion.

    `features` is `[image, dim]`, `angles` `[image, 3]` the recorded Euler angles in radians, `objects` `[image]` ints
    that say which images show the same object.

    Raises:
        InvalidInput: no object has two images, or features are nan or infinite.
    """
    object_of = np.asarray(objects, dtype=np.int64)
    first, second = draw_pairs(object_of, pairs_per_object=pairs_per_object, seed=seed)
    pose = torch.as_tensor(angles).to("cpu", torch.float32)
    i, j = torch.from_numpy(first), torch.from_numpy(second)
    target = relative_rotation(pose[i], pose[j])
    return Pairs(finite(features), i, j, target, torch.from_numpy(object_of[first]))


def draw_pairs(
    objects: NDArray[np.int64], *, pairs_per_object: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the first and second views of `pairs_per_object` ordered pairs of distinct views of each object.

    A pair may be drawn twice. Objects with a single image give none.
    """
    rng = generator("pairs", seed)
    first, second = [], []
    for name in np.unique(objects):
        rows = np.flatnonzero(objects == name)
        if len(rows) < 2:
            continue
        a = rng.integers(len(rows), size=pairs_per_object)
        b = (a + 1 + rng.integers(len(rows) - 1, size=pairs_per_object)) % len(rows)
        first.append(rows[a])
        second.append(rows[b])
    if not first:
        raise InvalidInput("pairs of views: no object has two images; rotation needs samples that store several views")
    return np.concatenate(first), np.concatenate(second)


def relation_r2(
    train: Pairs, val: Pairs, config: PairProbeConfig | None = None, *, name: str = "rotation", seed: int = 0
) -> list[Measure]:
    """R2 of a probe that predicts `target` from the features of both views: `name/r2` and `name/r2_official`.

    `r2` weighs each column by its variance, so that a constant predictor is near 0: compare models by it.
    `r2_official` is the published one, with one mean over all columns; what it gives to a predictor that never looks
    depends on the data (0.229 for 3DIEBench). Chance is the score of the training pairs' column means on `val`.
    """
    settings = config or PairProbeConfig()
    probe = fit_pair_probe(train, settings, seed=seed)
    predicted, target = predict(probe, val), val.target.numpy()
    blind = np.broadcast_to(train.target.numpy().mean(axis=0), target.shape)
    fit = train.target.numpy(), predict(probe, train)
    measures = []
    for full_name, score in ((f"{name}/r2", variance_weighted_r2), (f"{name}/r2_official", official_r2)):
        interval = bootstrap(partial(score, target, predicted), val.group.numpy(), seed=seed)
        detail = {
            "train_r2": score(*fit),
            "num_train_pairs": len(train.first),
            "num_groups": len(np.unique(val.group)),
            "probe": dump(settings),
        }
        chance = score(target, blind)
        measures.append(Measure(name=full_name, **interval._asdict(), chance=chance, n=len(target), detail=detail))
    return measures


class PairProbe(nn.Module):
    """An MLP with two hidden layers from the features of two views, side by side, to the transformation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, train: Pairs, config: PairProbeConfig) -> None:
        super().__init__()
        deviation, mean = torch.std_mean(train.features, dim=0, correction=0)
        keep = config.standardise
        self.register_buffer("mean", mean if keep else torch.zeros_like(mean))
        # A dead channel stays at zero instead of being blown up to noise.
        self.register_buffer("deviation", deviation.clamp(min=1e-6) if keep else torch.ones_like(deviation))
        self.layers = nn.Sequential(
            nn.Linear(2 * train.features.shape[1], config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
        )
        # Begins as the best predictor that never looks, so that what it scores above it, it has seen.
        self.read_out = nn.Linear(config.hidden, train.target.shape[1])
        nn.init.zeros_(self.read_out.weight)
        self.read_out.bias.data.copy_(train.target.mean(dim=0))

    def forward(self, first: Float[Tensor, "pair dim"], second: Float[Tensor, "pair dim"]) -> Tensor:
        """`[pair, k]`, not normalised."""
        views = [(view - self.mean) / self.deviation for view in (first, second)]
        predicted: Tensor = self.read_out(self.layers(torch.cat(views, dim=1)))
        return predicted


def fit_pair_probe(train: Pairs, config: PairProbeConfig, *, seed: int) -> PairProbe:
    """Train a probe on the mean squared error by Adam; the same seed gives the same probe.

    The weights are those of the step at which the objects of `stop_share` were predicted best.
    """
    with torch.random.fork_rng(devices=[]):  # layers are initialised from the global generator, which is given back
        torch.manual_seed(key64("pair probe", seed))
        probe = PairProbe(train, config)
    optimizer = torch.optim.Adam(probe.parameters(), lr=config.lr)
    rng = generator("pair probe batches", seed)
    fitted, stopping = _stop_split(train, config.stop_share, seed)
    best = (_error(probe, stopping), copy.deepcopy(probe.state_dict()))
    for step in range(1, config.steps + 1):
        chosen = torch.from_numpy(rng.integers(len(fitted.first), size=config.batch_size))
        predicted = probe(fitted.features[fitted.first[chosen]], fitted.features[fitted.second[chosen]])
        optimizer.zero_grad()
        F.mse_loss(predicted, fitted.target[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if len(stopping.first) and (step % _LOOK_EVERY == 0 or step == config.steps):
            best = min(best, (_error(probe, stopping), copy.deepcopy(probe.state_dict())), key=lambda found: found[0])
    if len(stopping.first):
        probe.load_state_dict(best[1])
    return probe


def _stop_split(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Pairs to fit, and pairs of other objects to choose the step by; none of these with fewer than five objects."""
    objects = torch.unique(pairs.group)
    number = round(share * len(objects)) if len(objects) >= 5 else 0
    kept = objects[torch.from_numpy(generator("pair probe stop", seed).permutation(len(objects))[:number])]
    stop = torch.isin(pairs.group, kept)
    return _of(pairs, ~stop), _of(pairs, stop)


def _of(pairs: Pairs, rows: Tensor) -> Pairs:
    return Pairs(pairs.features, pairs.first[rows], pairs.second[rows], pairs.target[rows], pairs.group[rows])


def _error(probe: PairProbe, pairs: Pairs) -> float:
    """Mean squared error; infinite of no pairs."""
    if not len(pairs.first):
        return float("inf")
    return float(np.mean((predict(probe, pairs) - pairs.target.numpy()) ** 2))


@torch.no_grad()
def predict(probe: PairProbe, pairs: Pairs) -> NDArray[np.float32]:
    """`[pair, k]` predictions."""
    rows = [
        probe(pairs.features[pairs.first[i : i + _BLOCK]], pairs.features[pairs.second[i : i + _BLOCK]])
        for i in range(0, len(pairs.first), _BLOCK)
    ]
    return np.asarray(torch.cat(rows).numpy())


def official_r2(target: Rows, predicted: Rows, weights: Rows | None = None) -> float:
    """R2 of `[row, k]` with ONE mean over all entries, as SIE's published code has it (its rotation R2).

    A constant predictor scores above 0 as soon as the columns' means differ.
    """
    return _r2(target, predicted, weights, centre_axis=None)


def variance_weighted_r2(target: Rows, predicted: Rows, weights: Rows | None = None) -> float:
    """R2 of `[row, k]` with a mean a column: 0 for the best constant predictor, below 0 for a worse one."""
    return _r2(target, predicted, weights, centre_axis=0)


def _r2(target: Rows, predicted: Rows, weights: Rows | None, *, centre_axis: int | None) -> float:
    truth, guess = target.astype(np.float64), predicted.astype(np.float64)
    each = np.ones(truth.shape) if weights is None else np.broadcast_to(weights[:, None], truth.shape)
    centre = np.average(truth, axis=centre_axis, weights=each)
    return float(1 - np.sum(each * (truth - guess) ** 2) / np.sum(each * (truth - centre) ** 2))
