"""DeepSpeed behind the engine's interface: ZeRO 0-3 on CPUs over gloo and on GPUs over NCCL.

The only importer of deepspeed, which costs seconds, so it is imported when an engine is built and not before. Optimizer
and schedule are those of the plain engine: DeepSpeed's own "Adam" is AdamW unless told otherwise, and its CPU Adam is
compiled on first use.
"""

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from viewfold.config import Config
from viewfold.errors import InvalidInput, MissingDependency
from viewfold.ssl.batchnorm import with_gathered_batchnorm
from viewfold.ssl.dist import rank, world_size
from viewfold.ssl.engine import AbstractEngine, OptimConfig, build_optimizer, learning_rate
from viewfold.ssl.methods import Method, Outcome
from viewfold.values import Views

_TAG = "deepspeed"  # folder within a checkpoint; the checkpoint's own name already tells the step


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
        module = _FlatOutcome(with_gathered_batchnorm(method))
        optimizer = build_optimizer([p for p in module.parameters() if p.requires_grad], optim)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own deprecations while it builds; none that a user could act on
            self._engine, *_ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=_plain_config(optim, config), dist_init_required=False
            )
        self._gathered = deepspeed.zero.GatheredParameters
        self._engine.train()
        self.lr = learning_rate(optim, 0, num_steps)

    def __call__(self, views: Views) -> Outcome:
        return _unflatten(self._engine(views))

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def step(self) -> None:
        self.lr = learning_rate(self._optim, self._engine.global_steps, self._num_steps)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self.lr
        self._engine.step()

    def weights(self) -> dict[str, Tensor]:
        method = self._engine.module.method
        state: dict[str, Tensor] = {}
        # One parameter at a time, so that ZeRO-3 never holds all of a model that was too large for one device.
        for name, value in method.named_parameters():
            with self._gathered([value], enabled=self._config.zero_stage == 3):
                if rank() == 0:
                    state[name] = value.detach().cpu().clone()
        if rank() != 0:
            return {}
        return {name: state[name] if name in state else x.cpu().clone() for name, x in method.state_dict().items()}

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)
        if rank() == 0:
            (folder / "deepspeed.json").write_text(json.dumps(self._partition()) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        path = folder / "deepspeed.json"
        if not path.is_file():
            raise InvalidInput(f"{folder}: not written by DeepSpeed; resume with the engine that began the run")
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved != self._partition():
            raise InvalidInput(
                f"{folder}: written by {_words(saved)}, this run has {_words(self._partition())}; "
                "resume with the same number of ranks and the same stage"
            )
        self._engine.load_checkpoint(str(folder), tag=_TAG)

    def _partition(self) -> dict[str, int]:
        return {"ranks": world_size(), "zero_stage": self._config.zero_stage}


class _FlatOutcome(nn.Module):
    """A method whose answer is a flat dict: DeepSpeed's backward hooks find tensors in dicts, not in dataclasses."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Views) -> dict[str, Tensor]:
        outcome: Outcome = self.method(views)
        groups = {"terms": outcome.terms, "features": outcome.features, "facts": outcome.facts}
        return {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}


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


def _words(partition: dict[str, int]) -> str:
    return f"{partition['ranks']} ranks with ZeRO-{partition['zero_stage']}"
