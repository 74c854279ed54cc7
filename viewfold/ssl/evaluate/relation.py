"""How well the features of two views tell the transformation between them: the equivariance protocol of SIE."""

import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.config import Config, dump
from viewfold.errors import InvalidInput
from viewfold.keyed import generator, key64
from viewfold.ssl.evaluate.interval import bootstrap
from viewfold.ssl.evaluate.measure import Measure
from viewfold.ssl.evaluate.pairs import Pairs
from viewfold.ssl.evaluate.r2 import official_r2, variance_weighted_r2

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


def relation_r2(
    train: Pairs, val: Pairs, config: PairProbeConfig | None = None, *, name: str = "rotation", seed: int = 0
) -> list[Measure]:
    """R2 of a probe that predicts `target` from the features of both views: `name/r2` and `name/r2_official`.

    `r2` weighs each column by its variance, so that a constant predictor is near 0: compare models by it.
    `r2_official` is the published one, with one mean over all columns; what it gives to a predictor that never looks
    depends on the data (0.229 for 3DIEBench). Chance is the score of the training pairs' column means on `val`.

    Raises:
        InvalidInput: the transformation is the same between all pairs of `val`.
    """
    if bool((val.target == val.target[0]).all()):
        raise InvalidInput(f"{name}: it is the same between all {len(val.target)} pairs of views, so it has no R2")
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
