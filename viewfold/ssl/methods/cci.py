"""CCI: a classifier, and class-conditioned contrastive invariance across domains."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from viewfold.errors import InvalidInput
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.losses import cci_loss, class_pairs, classification_loss
from viewfold.ssl.methods.method import Method, MethodConfig, Outcome, Task, by_part, check_tau, check_unread
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class CCIConfig(MethodConfig):
    """Form and weights of CCI."""

    name: Literal["cci"] = "cci"
    form: Literal["in", "out"] = "in"
    """`in`: the anchor's positives share one pull, and below tau 0.5 the nearest takes nearly all of it; `out`: each
    has its own."""
    positives: Literal["class", "cross_domain"] = "class"
    """`class`: every other sample of the class; `cross_domain`: those of other domains."""
    same_domain_same_class: Literal["neutral", "negative"] = "neutral"
    """What `cross_domain` does with the class within the anchor's own domain: `neutral` does not compare it, `negative`
    pushes it away, against what is learned; read by `cross_domain` only."""
    tau: float = 1.0
    """Temperature, above 0."""
    eps: float | None = None
    """Added to both sums of `in`; HCVP's code has 1e-7. None adds nothing."""
    cci_weight: float = 1.0
    ce_weight: float = 1.0
    """Weight of the linear classifier's cross-entropy."""

    @property
    def needs_labels(self) -> bool:
        return True

    def __post_init__(self) -> None:
        check_tau(self.tau)
        if self.positives == "class":
            check_unread(self, "same_domain_same_class", where="with positives: class")
        if self.eps is not None and (self.form == "out" or self.eps <= 0):
            raise ValueError(f"eps must be above 0 and belongs to form 'in', got {self.eps} with form {self.form!r}")
        if min(self.cci_weight, self.ce_weight) < 0 or self.cci_weight == self.ce_weight == 0:
            raise ValueError(
                f"cci_weight and ce_weight must be 0 or more and not both 0, got {self.cci_weight} and {self.ce_weight}"
            )


CCI_PRESETS: dict[str, CCIConfig] = {
    "hcvp": CCIConfig(),
    "robust": CCIConfig(form="out", positives="cross_domain", tau=0.1),
}
"""`hcvp`: the loss as its authors' code has it, but anchors without positives are left out; `robust`: every positive
from another domain pulls, whatever the temperature. In a file or on the command line: `method: cci-hcvp`, or
`{name: cci-robust, tau: 0.2}` for a preset with changes."""


class CCI(Method):
    """An encoder and a linear classifier, both on the features' invariant part; any number of views."""

    config_class = CCIConfig

    def __init__(self, config: CCIConfig, encoder: Encoder, *, num_labels: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        part = encoder.parts["invariant"]
        self.classifier = nn.Linear(part.stop - part.start, num_labels)

    @classmethod
    def build(cls, config: CCIConfig, encoder: Encoder, task: Task) -> "CCI":
        part = encoder.parts["invariant"]
        if part.start == part.stop:
            raise InvalidInput("method cci trains the invariant part and it is empty; lower encoder.equivariant_dim")
        if task.num_labels < 2:
            raise InvalidInput(f"method cci needs samples of two classes or more, the data has {task.num_labels}")
        if config.positives == "cross_domain" and task.num_domains < 2:
            raise InvalidInput(
                f"positives: cross_domain needs two domains or more, the data has {task.num_domains}; "
                "choose positives: class"
            )
        return cls(config, encoder, num_labels=task.num_labels)

    def forward(self, views: Views) -> Outcome:
        features = each_view(self.encoder, views.images).flatten(0, 1)
        h = features[:, self.encoder.parts["invariant"]]
        label, domain, group = (x.repeat(len(views.images)) for x in (views.label, views.domain, views.group))
        config = self.config
        pairs = class_pairs(
            label,
            domain,
            group,
            positives=config.positives,
            same_domain_same_class=config.same_domain_same_class,
        )
        terms = {
            "cci": config.cci_weight * cci_loss(h, pairs, form=config.form, tau=config.tau, eps=config.eps),
            "classification": config.ce_weight * classification_loss(self.classifier(h), label),
        }
        return Outcome(
            terms=terms,
            features=by_part(self.encoder, features),
            facts={"valid_anchor_share": pairs.valid.float().mean()},
        )
