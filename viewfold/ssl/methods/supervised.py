"""Supervised training: what the same encoder reaches when it is told the labels, the ceiling of a comparison."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from viewfold.config import check_ranges
from viewfold.errors import InvalidInput
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.losses import classification_loss
from viewfold.ssl.methods.method import Method, MethodConfig, Outcome, Task, by_part, check_unread
from viewfold.ssl.methods.regression import joined_pair, regression_loss, regressor
from viewfold.ssl.methods.relations import RELATIONS, check_relation
from viewfold.ssl.methods.view_pairs import check_views, paired, pairs, view_features
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(MethodConfig):
    """What is told: the class, the transformation between two views, or both."""

    name: Literal["supervised"] = "supervised"
    classification: float = 1.0
    """Weight of the linear classifier's cross-entropy, over both views of labelled samples; 0 trains no classifier."""
    transformation: str = ""
    """What the features of both views must tell, as for `sie`; empty for nothing."""
    regression: float = 1.0
    """Weight of the transformation's mean squared error, above 0."""
    regressor_width: int = 1024
    """Of the two hidden layers of the MLP that predicts the transformation."""

    @property
    def needs_labels(self) -> bool:
        return not self.transformation

    def __post_init__(self) -> None:
        check_ranges(self, classification=(0, math.inf), regressor_width=(1, math.inf))
        if self.transformation:
            check_relation(self.transformation)
            if self.regression <= 0:
                raise ValueError(f"regression must be above 0, got {self.regression}; or leave transformation empty")
        elif self.classification == 0:
            raise ValueError("classification is 0 and transformation empty: nothing to learn; set one of them")
        else:
            check_unread(self, "regression", "regressor_width", where="with an empty transformation")


class Supervised(Method):
    """An encoder, a classifier on its invariant part, and an MLP that reads the transformation off the equivariant.

    Where a part is empty, what belongs on it sees all features. A part that nothing is asked of learns nothing.
    """

    config_class = SupervisedConfig

    def __init__(self, config: SupervisedConfig, encoder: Encoder, *, num_labels: int, num_params: int) -> None:
        """`num_labels` or `num_params` is 0 where there is nothing of the kind to learn."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.parts = {name: _part_or_all(encoder, name) for name in ("invariant", "equivariant")}
        dims = {name: part.stop - part.start for name, part in self.parts.items()}
        self.classify = nn.Linear(dims["invariant"], num_labels) if num_labels else None
        self.regress = regressor(dims["equivariant"], config.regressor_width, num_params) if num_params else None

    @classmethod
    def build(cls, config: SupervisedConfig, encoder: Encoder, task: Task) -> "Supervised":
        if config.classification > 0 and task.num_labels < 2:
            raise InvalidInput(
                f"method supervised needs samples of two classes or more, the data has {task.num_labels}; label it, or "
                "set classification to 0 and name a transformation"
            )
        num_labels = task.num_labels if config.classification > 0 else 0
        num_params = RELATIONS[config.transformation].num_outputs(task) if config.transformation else 0
        check_views(task, method="supervised")
        return cls(config, encoder, num_labels=num_labels, num_params=num_params)

    def forward(self, views: Views) -> Outcome:
        features = view_features(self.encoder, views, method="supervised")
        terms: dict[str, Tensor] = {}
        if self.classify is not None:
            logits = self.classify(features[:, :, self.parts["invariant"]].flatten(0, 1))
            label = views.label.repeat(len(features))
            terms["classification"] = self.config.classification * classification_loss(logits, label)
        if self.regress is not None:
            prediction = self.regress(joined_pair(pairs(features[:, :, self.parts["equivariant"]])))
            z = RELATIONS[self.config.transformation](paired(views))
            terms["regression"] = self.config.regression * regression_loss(prediction, z)
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)))


def _part_or_all(encoder: Encoder, name: str) -> slice:
    part = encoder.parts[name]
    return part if part.start < part.stop else encoder.parts["all"]
