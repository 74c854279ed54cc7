"""The settings of a run: which stages it has, and what each is to do."""

import re
from dataclasses import dataclass
from typing import Literal

from viewfold.config import Config
from viewfold.jobs.cluster import ClusterConfig
from viewfold.jobs.compare import CompareConfig
from viewfold.jobs.data import DataConfig
from viewfold.jobs.embed import EmbedConfig
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.index import IndexConfig
from viewfold.jobs.mine import MineConfig
from viewfold.jobs.train_config import TrainConfig
from viewfold.ssl.encoder import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """All stages of a run; a stage whose settings are left out is not made."""

    name: str
    """Also the default run folder, `runs/NAME`."""
    data: DataConfig
    held_out: tuple[str, ...] = ()
    """Domains that no training and no index ever sees: they only ask."""
    validation: DataConfig | None = None
    """Where the encoder is measured; the held-out domains of `data` when left out."""
    start: str = ""
    """An encoder to begin with in place of pretraining one: its folder, a run folder, or `models:/NAME@champion`."""
    encoder: EncoderConfig | None = None
    """What is pretrained."""
    pretrain: TrainConfig | None = None
    mine: MineConfig | None = None
    """Pairs of images that show alike things, for `adapt` to learn from."""
    adapt: TrainConfig | None = None
    """A second training, which goes on from the encoder that was pretrained or begun with."""
    cluster: ClusterConfig | None = None
    evaluate: EvaluateConfig | None = None
    embed: EmbedConfig | None = None
    index: IndexConfig | None = None
    register_as: str | None = None
    """Name in the model registry."""
    alias: Literal["champion", "challenger"] = "champion"
    """What is moved to the new version: `champion` is served at once, a `challenger` waits for `viewfold promote`."""
    compare: CompareConfig | None = None

    def __post_init__(self) -> None:
        needs = {"pretrain": ("encoder",), "encoder": ("pretrain",), "mine": ("adapt",), "index": ("embed",)}
        needs["compare"] = ("index",)
        for stage, others in needs.items():
            missing = [other for other in others if getattr(self, other) is None]
            if getattr(self, stage) is not None and missing:
                raise ValueError(
                    f"{stage} needs {', '.join(missing)}, which this run leaves out; add it, or drop {stage}"
                )
        if self.mine is not None and self.adapt is not None and self.adapt.method.needs_labels:
            raise ValueError(
                f"method {self.adapt.method.name} learns from labels, of which mined pairs have none; leave `mine` out"
            )
        if bool(self.start) == (self.pretrain is not None):
            raise ValueError(
                f"a run has either `pretrain` or `start`, an encoder to begin with; got start={self.start!r}"
            )
        self._check_replay()
        ledger = self.pretrain.stream.ledger if self.pretrain else ""
        if ledger and self.adapt is not None and self.adapt.stream.ledger == ledger:
            raise ValueError(f"pretrain and adapt cannot share stream.ledger={ledger}; name two folders")
        if self.register_as is not None and not re.fullmatch(r"[\w.-]+", self.register_as):
            raise ValueError(f"register_as takes letters, digits, '_', '-' and '.', got {self.register_as!r}")
        if self.evaluate is not None and self.validation is None and not self.held_out:
            raise ValueError(
                "evaluate needs other data than it was trained on: give `validation`, or `held_out` domains"
            )
        if self.compare is not None and not self.held_out:
            raise ValueError("compare asks with the images of `held_out` domains, and there are none; name some")

    def _check_replay(self) -> None:
        if self.data.replay is not None and self.adapt is None:
            raise ValueError("data.replay thins what `adapt` learns from, which this run leaves out; drop one")
        if self.data.replay is not None and self.mine is not None:
            raise ValueError(
                "data.replay thins what `adapt` learns from, and pairs are mined of all of it; leave out data.replay "
                "or `mine`"
            )
        if self.validation is not None and self.validation.replay is not None:
            raise ValueError("validation.replay: nothing is learned from there; leave it out")
