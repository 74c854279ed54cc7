"""Small methods with a subspace head and the views to train them: what the tests of the rates' methods share."""

from typing import Any

import torch
from trainees import SIZE

from viewfold.config import choose
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.methods import METHOD_CONFIGS, METHODS, Method, Task
from viewfold.ssl.subspace_head import SubspaceHead, SubspaceHeadConfig
from viewfold.values import Views

TASK = Task((), num_labels=3)
SMALL: dict[str, Any] = {"hidden_widths": [24], "dim": 6}


def small_encoder(equivariant_dim: int = 0) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(equivariant_dim=equivariant_dim, preprocessing=Preprocessing(image_size=SIZE)))


def small_head(part_dim: int = 256, **settings: Any) -> SubspaceHead:
    torch.manual_seed(1)
    fields: dict[str, Any] = {"part": "invariant", "hidden_widths": (24,), "dim": 6, "heads": "one"}
    return SubspaceHead(SubspaceHeadConfig(part_dim=part_dim, **fields | settings))


def built(name: str, task: Task = TASK, **settings: Any) -> Method:
    config = choose("method", METHOD_CONFIGS, {"name": name, **SMALL, **settings})
    encoder = small_encoder()
    return METHODS[name].build(config, encoder, task)


def views_of(num_views: int = 2, num_samples: int = 8, *, seed: int = 0) -> Views:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(num_views, num_samples, 3, SIZE, SIZE, generator=generator)
    row = torch.arange(num_samples)
    return Views(images, None, (), label=row % 3, domain=row, group=row)
