"""What turns terms into weights: the engine that the loop is handed, and the plain one.

`LocalEngine` is torch alone, for tests, small runs and as the reference; `DeepSpeedEngine` has a file of its own.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from viewfold.config import Config
from viewfold.ssl.batchnorm import with_gathered_batchnorm
from viewfold.ssl.dist import rank, sum_over_ranks, world_size
from viewfold.ssl.methods import Method, Outcome
from viewfold.ssl.state import WEIGHTS, Piece, State, plain_pieces, read_state, take_plain, write_state
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
    """Optimizer and learning rate; every parameter is treated alike, biases and BatchNorm gains included."""

    optimizer: Literal["adam", "adamw"] = "adam"
    """`adam` adds the weight decay to the gradient (L2), `adamw` shrinks the weights beside it."""
    lr: float = 1e-3
    """Peak learning rate; it is not scaled by the batch size."""
    weight_decay: float = 1e-6
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up; `cosine` ends at zero with the last step."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly; the first step already moves."""
    gradient_clipping: float = 0.0
    """Largest norm of the gradient of all weights together; 0 leaves it alone."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        for name in ("weight_decay", "warmup_steps", "gradient_clipping"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """Rate of the `step`-th update (from 0) of a run of `num_steps`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def build_optimizer(parameters: list[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of either engine: one kernel for all of an update (1.2 M weights, one core: 1.7 ms, not 4.7)."""
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)


class AbstractEngine(ABC):
    """Runs a method forward and backward and updates its weights; owns optimizer, precision and ranks.

    Gradients are averaged over ranks, and all ranks call everything together.
    """

    device: torch.device
    lr: float
    """Learning rate of the next update, and after it of the last one until the next forward."""
    steps_done: int
    """Updates taken, those of the processes that went before included."""

    @abstractmethod
    def __call__(self, views: Views) -> Outcome:
        """Terms and features of this rank's views, in training mode."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Gradients of this rank's loss, averaged over ranks."""

    @abstractmethod
    def step(self) -> None:
        """Update the weights and forget the gradients."""

    @abstractmethod
    def pieces(self) -> dict[str, Piece]:
        """All that the next step depends on, in the names and the order of `ssl.state`, the same on all ranks."""

    @abstractmethod
    def take(self, state: State) -> None:
        """Go on from `state`, which was checked to be of the same method."""

    def weights(self) -> dict[str, Tensor]:
        """The method's full state, float32 on the CPU, on rank 0; other ranks get an empty dict."""
        weights: dict[str, Tensor] = {}
        for name, piece in self._weights().items():
            value = piece.whole()  # a call of all ranks, one tensor at a time
            if rank() == 0:
                weights[name] = value.detach().cpu().clone()
        return weights

    def save(self, folder: Path) -> None:
        """Write the state into `folder`, one file from rank 0."""
        write_state(folder, self.pieces(), steps_done=self.steps_done)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote, whatever the engine, its ZeRO stage and the ranks; every rank reads the file.

        Raises:
            InvalidInput: no state there, or that of another method.
        """
        with read_state(folder) as state:
            state.require_weights({name: piece.like.shape for name, piece in self._weights().items()})
            self.take(state)
            self.steps_done = state.steps_done

    def _weights(self) -> dict[str, Piece]:
        pieces = self.pieces().items()
        return {name.removeprefix(WEIGHTS): piece for name, piece in pieces if name.startswith(WEIGHTS)}


class LocalEngine(AbstractEngine):
    """Plain torch, float32; every rank keeps all weights and optimizer state."""

    def __init__(
        self, method: Method, optim: OptimConfig, *, num_steps: int, device: torch.device | str = "cpu"
    ) -> None:
        """`num_steps` is the length of the whole run, which the schedule needs; rank 0's weights go to all ranks."""
        self.device = torch.device(device)
        self.method = with_gathered_batchnorm(method.to(self.device).train())
        self._parameters = [p for p in self.method.parameters() if p.requires_grad]
        self._optim, self._num_steps, self.steps_done = optim, num_steps, 0
        self._optimizer = build_optimizer(self._parameters, optim)
        self.lr = learning_rate(optim, 0, num_steps)
        self._share_weights()

    def __call__(self, views: Views) -> Outcome:
        outcome: Outcome = self.method(views)
        return outcome

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)
        if world_size() > 1:
            self._average_gradients()

    def step(self) -> None:
        self.lr = learning_rate(self._optim, self.steps_done, self._num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr
        if self._optim.gradient_clipping:
            nn.utils.clip_grad_norm_(self._parameters, self._optim.gradient_clipping)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.steps_done += 1

    def pieces(self) -> dict[str, Piece]:
        return plain_pieces(self.method, self._optimizer)

    def take(self, state: State) -> None:
        take_plain(self.method, self._optimizer, state)

    @torch.no_grad()
    def _share_weights(self) -> None:
        if world_size() == 1:
            return
        for value in self.method.state_dict().values():
            value.copy_(sum_over_ranks(value if rank() == 0 else torch.zeros_like(value)))

    @torch.no_grad()
    def _average_gradients(self) -> None:
        """One message for all gradients: a reduction a parameter would cost a round trip each."""
        grads = [p.grad for p in self._parameters if p.grad is not None]
        mean = sum_over_ranks(torch.cat([g.flatten() for g in grads])) / world_size()
        for grad, part in zip(grads, torch.split(mean, [g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))
