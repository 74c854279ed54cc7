"""DeepSpeed behind the engine's interface: ZeRO 0-3 on CPUs over gloo and on GPUs over NCCL.

The only importer of deepspeed, which costs seconds, so it is imported when an engine is built and not before. Optimizer
and schedule are those of the plain engine: DeepSpeed's own "Adam" is AdamW unless told otherwise, and its CPU Adam is
compiled on first use.
"""

import os
import warnings
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from viewfold.config import Config
from viewfold.errors import MissingDependency
from viewfold.ssl.batchnorm import with_gathered_batchnorm
from viewfold.ssl.dist import rank, world_size
from viewfold.ssl.engine import AbstractEngine, OptimConfig, build_optimizer, learning_rate
from viewfold.ssl.methods import Method, Outcome
from viewfold.ssl.state import MOMENTS, WEIGHTS, Piece, State, plain_pieces, take_plain
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig(Config):
    """What DeepSpeed does beyond the plain engine. Gradients are never accumulated: that would change the losses that
    look at the whole batch."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """What ranks share out instead of each keeping all: 0 nothing, 1 optimizer state, 2 gradients, 3 weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs matrix products in bfloat16 (autocast); weights, BatchNorm and losses stay float32."""


class DeepSpeedEngine(AbstractEngine):
    """A method run by DeepSpeed; joins the process group that exists, or makes one of a single rank."""

    def __init__(
        self,
        method: Method,
        optim: OptimConfig,
        config: DeepSpeedConfig,
        *,
        num_steps: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """`num_steps` is the length of the whole run, which the schedule needs; rank 0's weights go to all ranks.

        Raises:
            MissingDependency: deepspeed is not installed.
        """
        self.device = torch.device(device)
        self._optim, self._config, self._num_steps = optim, config, num_steps
        deepspeed = _import_deepspeed(self.device)
        _join_group(deepspeed, self.device)
        # ZeRO flattens weights and broadcasts them as bytes, which needs the default layout; images stay channels_last.
        method = method.to(self.device).to(memory_format=torch.contiguous_format)
        module = _FlatOutcome(with_gathered_batchnorm(method.train()))
        self._adam = build_optimizer([p for p in module.parameters() if p.requires_grad], optim)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own deprecations while it builds; none that a user could act on
            self._engine, *_ = deepspeed.initialize(
                model=module, optimizer=self._adam, config=_plain_config(optim, config), dist_init_required=False
            )
        self._deepspeed: Any = deepspeed
        self._engine.train()
        self.steps_done = 0
        self.lr = learning_rate(optim, 0, num_steps)

    def __call__(self, views: Views) -> Outcome:
        return _unflatten(self._engine(views))

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def step(self) -> None:
        self.lr = learning_rate(self._optim, self.steps_done, self._num_steps)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self.lr
        self._engine.step()
        self.steps_done += 1

    def pieces(self) -> dict[str, Piece]:
        method = self._engine.module.method
        if self._config.zero_stage == 0:
            return plain_pieces(method, self._adam)
        state = method.state_dict(keep_vars=True)
        pieces = {f"{WEIGHTS}{name}": Piece(_like(value), partial(self._whole, value)) for name, value in state.items()}
        updates = torch.tensor(
            float(self.steps_done)
        )  # as Adam counts them: all weights of a share are updated at once
        moment = self._deepspeed.utils.safe_get_full_optimizer_state
        for name, parameter in method.named_parameters() if self.steps_done else ():
            if parameter.requires_grad:
                pieces[f"step/{name}"] = Piece(updates.to("meta"), updates.clone)
                for key in MOMENTS:
                    pieces[f"{key}/{name}"] = Piece(_like(parameter), partial(moment, parameter, key))
        return pieces

    @torch.no_grad()
    def take(self, state: State) -> None:
        method = self._engine.module.method
        if self._config.zero_stage == 0:
            take_plain(method, self._adam, state)
            return
        self._begin_moments(state.steps_done)
        for name, value in method.state_dict(keep_vars=True).items():
            whole = state[f"{WEIGHTS}{name}"].to(self.device)
            with self._deepspeed.zero.GatheredParameters([value], modifier_rank=0):
                value.detach().copy_(whole)
            if value.requires_grad:
                self._put_share(value, whole)
            for key in MOMENTS:
                if f"{key}/{name}" in state:
                    self._put_share(value, state[f"{key}/{name}"].to(self.device), key)

    def _whole(self, value: Tensor) -> Tensor:
        """A parameter, which ZeRO-3 scatters over the ranks, or a buffer."""
        with self._deepspeed.zero.GatheredParameters([value]):
            return value.detach().clone()

    def _begin_moments(self, steps_done: int) -> None:
        """What Adam keeps of DeepSpeed's flat shares of the weights; by itself it begins with the first update."""
        zero = self._engine.optimizer
        scattered = self._config.zero_stage == 3
        self._adam.state.clear()
        for flat in zero.fp32_partitioned_groups_flat if scattered else zero.single_partition_of_fp32_groups:
            if steps_done:
                updates = torch.tensor(float(steps_done), device=flat.device)
                self._adam.state[flat] = {"step": updates, **{key: torch.zeros_like(flat) for key in MOMENTS}}
        if not scattered:
            # Its parameters know where their moments lie from the first update on; for them this is one.
            zero._hp_optimizer_states_linked = False
            if steps_done:
                zero._lazy_init_hp_params_optimizer_state()

    def _put_share(self, parameter: Tensor, whole: Tensor, key: str | None = None) -> None:
        """This rank's share of a moment or, without a key, of the float32 weights that the optimizer updates."""
        utils = self._deepspeed.utils
        put, put_moment = utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state
        if self._config.zero_stage == 3:
            # Shares are equal and the last one is padded; given the whole, DeepSpeed would read past its end.
            put, put_moment = utils.safe_set_local_fp32_param, utils.safe_set_local_optimizer_state
            size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
            whole = nn.functional.pad(whole.flatten(), (0, size * world_size() - whole.numel()))
            whole = whole.narrow(0, size * rank(), size)
        put(parameter, whole) if key is None else put_moment(parameter, whole, key)


class _FlatOutcome(nn.Module):
    """A method whose answer is a flat dict: DeepSpeed's backward hooks find tensors in dicts, not in dataclasses."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Views) -> dict[str, Tensor]:
        outcome: Outcome = self.method(views)
        groups = {"terms": outcome.terms, "features": outcome.features, "facts": outcome.facts}
        return {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}


def _like(value: Tensor) -> Tensor:
    """Its shape and type, also where ZeRO-3 has left no more than a share of it here."""
    return torch.empty(getattr(value, "ds_shape", value.shape), dtype=value.dtype, device="meta")


def _unflatten(flat: dict[str, Tensor]) -> Outcome:
    groups: dict[str, dict[str, Tensor]] = {"terms": {}, "features": {}, "facts": {}}
    for path, value in flat.items():
        group, _, name = path.partition("/")
        groups[group][name] = value
    return Outcome(**groups)


def _import_deepspeed(device: torch.device) -> ModuleType:
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # otherwise it looks for accelerators, compilers and launchers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of torch that its modules use while they are imported
        try:
            import deepspeed
        except ModuleNotFoundError as error:
            raise MissingDependency("the DeepSpeed engine needs deepspeed: pip install 'viewfold[train]'") from error
    deepspeed.utils.logging.set_log_level_from_string("error")
    # ZeRO-3 calls functions under names that torch has since renamed: one line for every step and layer.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.", category=FutureWarning)
    if device.type == "cpu":
        # Nothing is to be compiled: it would build its own all-reduce on every new machine, and gloo has one.
        deepspeed.ops.__compatible_ops__ = {}
    module: ModuleType = deepspeed
    return module


def _join_group(deepspeed: Any, device: torch.device) -> None:
    """Join the process group that torch already has (whoever started the workers made it), or start one alone."""
    os.environ["LOCAL_RANK"] = str(device.index or 0)  # which device it takes
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not distributed.is_initialized():
        store = distributed.HashStore()  # type: ignore[attr-defined]  # documented, but missing from its __all__
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    deepspeed.init_distributed(backend, verbose=False)


def _plain_config(optim: OptimConfig, config: DeepSpeedConfig) -> dict[str, Any]:
    return {
        # Sizes only feed DeepSpeed's own throughput lines, which are off: the stream decides what a batch is.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": None,
        "gradient_clipping": optim.gradient_clipping,
        "zero_optimization": {"stage": config.zero_stage},
        # Not its `bf16` section, which casts the weights: BatchNorm would be trained in bfloat16.
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # gradients cross the network in float32
        },
    }
