"""What a training is built of: encoder, method and engine, the same on every rank."""

from pathlib import Path

import torch

from viewfold.augment import param_names, relative_names, view_param_names
from viewfold.jobs.train_config import TrainConfig
from viewfold.keyed import key64
from viewfold.pipeline.manifest import ShardManifest
from viewfold.ssl.deepspeed_engine import DeepSpeedEngine
from viewfold.ssl.encoder import Encoder, EncoderConfig, load_encoder
from viewfold.ssl.engine import AbstractEngine, LocalEngine
from viewfold.ssl.kept_head import load_head
from viewfold.ssl.methods import METHODS, Method, Task
from viewfold.ssl.subspace_head import SubspaceHead
from viewfold.ssl.trainable import set_trainable


def build_engine(
    config: TrainConfig,
    manifest: ShardManifest,
    start: EncoderConfig | Path,
    device: torch.device,
    *,
    paired: bool = False,
) -> tuple[AbstractEngine, Method]:
    """The engine that trains `config.method` from `start`, and the method inside it; `paired`: on mined pairs."""
    encoder = start_encoder(config, start)
    method = build_method(config, manifest, encoder, start_head(start, encoder), paired=paired)
    if config.engine == "deepspeed":
        engine = DeepSpeedEngine(method, config.optim, config.deepspeed, num_steps=config.steps, device=device)
        return engine, method
    return LocalEngine(method, config.optim, num_steps=config.steps, device=device), method


def start_encoder(config: TrainConfig, start: EncoderConfig | Path) -> Encoder:
    """With what `config.train` says to learn. New weights are a function of `config.seed`, the same on every rank."""
    torch.manual_seed(key64("weights", config.seed))
    encoder = load_encoder(start) if isinstance(start, Path) else Encoder(start)
    set_trainable(encoder, config.train)
    return encoder


def start_head(start: EncoderConfig | Path, encoder: Encoder) -> SubspaceHead | None:
    """The head of subspaces that was kept with the encoder to go on from."""
    head = load_head(start, encoder_id=encoder.id) if isinstance(start, Path) else None
    return head if isinstance(head, SubspaceHead) else None


def build_method(
    config: TrainConfig, manifest: ShardManifest, encoder: Encoder, head: SubspaceHead | None, *, paired: bool
) -> Method:
    """What is learned, around `encoder`; `head` is the one that was kept with it, `paired`: on mined pairs."""
    num_images = 2 if paired else config.stream.images_per_sample
    task = Task(
        param_names=view_param_names(config.policy, num_images=num_images, num_latents=manifest.num_latents),
        num_labels=len(manifest.labels),
        # The domains that are there: those held out stay in the vocabulary.
        num_domains=int((manifest.samples.present("domain") >= 0).sum()),
        relative_names=relative_names(param_names(config.policy)),
        num_views=max(2, num_images) if config.policy.transforms() else num_images,
        batch_size=config.stream.batch_size,
        seed=config.seed,
        head=head,
        paired=paired,
    )
    return METHODS[config.method.name].build(config.method, encoder, task)
