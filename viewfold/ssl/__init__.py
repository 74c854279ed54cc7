"""What is learned and how good it is: encoders, losses, methods, engines, the loop, the evaluation protocols."""

from viewfold.ssl.backbones import BACKBONES, build_backbone
from viewfold.ssl.checkpoint import Progress, fill_checkpoint, load_checkpoint
from viewfold.ssl.encoder import Encoder, EncoderConfig, Features, Preprocessing, load_encoder, save_encoder
from viewfold.ssl.engine import AbstractEngine, LocalEngine, OptimConfig
from viewfold.ssl.loop import checkpoint_hook, metrics_hook, train
from viewfold.ssl.watch import CollapseWatch, WatchConfig, effective_rank

__all__ = [
    "BACKBONES",
    "AbstractEngine",
    "CollapseWatch",
    "Encoder",
    "EncoderConfig",
    "Features",
    "LocalEngine",
    "OptimConfig",
    "Preprocessing",
    "Progress",
    "WatchConfig",
    "build_backbone",
    "checkpoint_hook",
    "effective_rank",
    "fill_checkpoint",
    "load_checkpoint",
    "load_encoder",
    "metrics_hook",
    "save_encoder",
    "train",
]
