"""What the measures of a card are called, and what each one tells, in plain words."""

import re
from typing import NamedTuple

IGNORES, PREDICTS, BREAKS = "What it ignores", "What it predicts", "What breaks it"
SPREAD, OTHER = "How its features are spread", "Other measures"

PARTS = ("invariant", "equivariant", "all")


class Words(NamedTuple):
    """How a measure is told."""

    pattern: str
    """Of the name, with or without the part in front; what it catches fills the braces of the other fields."""
    section: str
    title: str
    better: int
    """1: higher is better, -1: lower is, 0: neither."""
    why: str
    relative: bool = False
    """Encoders are compared by value / chance: in a narrow cone of features all drifts are small, chance too."""
    part: str = ""
    """Of the features: known once a name was matched."""


_SAME = "The same, every class counting alike whatever its number of images."
_PUBLISHED = (
    "The published formula, one mean over all columns: what a blind guess scores depends on the data, see chance."
)
# fmt: off
WORDS = (
    Words(r"invariant/(\w+)/r2", IGNORES, "{0} left in it", -1,
          "Share of the variance of the {0} between two views that a probe still reads off it: 0 is gone."),
    Words(r"invariant/(\w+)/r2_official", IGNORES, "{0} left in it, as published", -1, _PUBLISHED),
    Words(r"invariant/(curve/.+)", IGNORES, "{0}", -1,
          "Mean cosine distance that the features move as the change grows: 0 is not at all, chance is another image.",
          True),
    Words(r"invariant/fitted_retrieval/(.+)", IGNORES, "fitted retrieval {0} left in it", 0,
          "What a linear predictor fitted afterwards still finds of the transformation in this part."),
    Words(r"(curve/.+)", IGNORES, "{0}", 0,
          "Mean cosine distance that this part moves as the change grows; here moving is no fault.",
          True),
    Words(r"knn(\d+)/top1", PREDICTS, "kNN top-1", 1,
          "Share of images whose {0} nearest training images vote for the right class."),
    Words(r"knn(\d+)/top1_balanced", PREDICTS, "kNN top-1, balanced", 1, _SAME),
    Words(r"knn(\d+)/top5", PREDICTS, "kNN top-5", 1,
          "Share of images with the right class among the five that the {0} nearest training images vote for most."),
    Words(r"knn(\d+)/top5_balanced", PREDICTS, "kNN top-5, balanced", 1, _SAME),
    Words(r"precision(\d+)", PREDICTS, "precision at {0}", 1,
          "Share of its {0} nearest training images that are of an image's own class."),
    Words(r"linear/top(\d+)", PREDICTS, "linear top-{0}", 1,
          "Share of images with the right class among the {0} best of a linear classifier on the frozen features."),
    Words(r"linear/top(\d+)_balanced", PREDICTS, "linear top-{0}, balanced", 1, _SAME),
    Words(r"(\w+)/r2", PREDICTS, "{0} R2", 1,
          "Share of the variance of the {0} between two views that a probe reads off both: 0 is blind, 1 perfect."),
    Words(r"(\w+)/r2_official", PREDICTS, "{0} R2, as published", 1, _PUBLISHED),
    Words(r"retrieval/mrr", PREDICTS, "view retrieval MRR", 1,
          "Its predictor turns one view into another: mean of 1/rank of the right one among the views of the object."),
    Words(r"retrieval/hit@?(\d+)", PREDICTS, "view retrieval hit@{0}", 1,
          "Share of predictions whose right view is among the {0} nearest."),
    Words(r"retrieval/pre", PREDICTS, "view retrieval pose error", -1,
          "Mean squared sine of half the angle between the pose asked for and the nearest view of any object."),
    Words(r"fitted_retrieval/mrr", PREDICTS, "fitted retrieval MRR", 1,
          "View retrieval by a linear predictor that was fitted to the frozen features afterwards."),
    Words(r"fitted_retrieval/hit@?(\d+)", PREDICTS, "fitted retrieval hit@{0}", 1,
          "The same: share of predictions whose right view is among the {0} nearest."),
    Words(r"fitted_retrieval/pre", PREDICTS, "fitted retrieval pose error", -1,
          "The same: mean squared sine of half the angle between the pose asked for and the one found."),
    Words(r"retrieval/pre_all", PREDICTS, "pose error, training views too", -1,
          "The same with the training images among those that may be found."),
    Words(r"fitted_retrieval/pre_all", PREDICTS, "fitted pose error, training views too", -1,
          "The same with the training images among those that may be found."),
    Words(r"robust_shift/consistency", BREAKS, "same answer, robust crop", 1,
          "The same where a crop is chosen by its content before encoding."),
    Words(r"robust_shift/adversarial", BREAKS, "no shift changes it, robust crop", 1,
          "The same where a crop is chosen by its content before encoding."),
    Words(r"robust_shift/drift", BREAKS, "one-pixel drift, robust crop", -1,
          "The same where a crop is chosen by its content before encoding.", True),
    Words(r"shift/consistency", BREAKS, "same answer after one pixel", 1,
          "Share of answers that stay when the window moves by one pixel over a larger picture."),
    Words(r"shift/adversarial", BREAKS, "no one-pixel shift changes it", 1,
          "Share of images whose answer survives all eight one-pixel shifts."),
    Words(r"shift/drift", BREAKS, "drift of one pixel", -1,
          "Cosine distance that the features move when the window moves by one pixel; chance is another image.", True),
    Words(r"domains/gap", BREAKS, "accuracy lost on a new domain", 0,
          "Accuracy on the domains that the classifier knows, less that on a domain left out of its training."),
    Words(r"domains/in_domain", BREAKS, "accuracy on known domains", 1, "Accuracy where the domain was trained on."),
    Words(r"domains/out_of_domain", BREAKS, "accuracy on a new domain", 1,
          "Accuracy on each domain by a classifier that never saw it."),
    Words(r"detection/(\w+)_auroc", BREAKS, "AUROC by {0}", 1,
          "How often an image of an unknown domain looks stranger than one of a known domain: 0.5 is a coin."),
    Words(r"detection/(\w+)_fpr95", BREAKS, "FPR95 by {0}", -1,
          "Share of images of unknown domains taken for known when 95 % of the known are: lower is better."),
    Words(r"effective_rank", SPREAD, "effective rank", 0,
          "How many dimensions the features use (RankMe); it has no interval, and chance is one point for all images."),
    Words(r"alignment", SPREAD, "alignment", 0,
          "Mean squared distance of two views of the same thing on the unit sphere: low is close together."),
    Words(r"uniformity", SPREAD, "uniformity", 0,
          "Log of the mean closeness of all images on the unit sphere: low is evenly spread."),
    Words(r"clusters/acc", SPREAD, "clusters accuracy", 1, "Share of images in the cluster of their class."),
    Words(r"clusters/(nmi|ari|ami)", SPREAD, "clusters {0}", 1,
          "Agreement of k-means clusters with the classes: 1 is full."),
)
# fmt: on
"""The first pattern that matches the whole name, or the name without its part, tells of the measure."""

SPELLED = {
    "curve/rotation": "in-plane rotation",
    "curve/jpeg": "JPEG compression",
    "curve/field": "random field",
    "knn": "kNN distance",
    "norm": "feature norm",
    "nmi": "NMI",
    "ari": "ARI",
    "ami": "AMI",
}
"""What a pattern catches, where it is not a word of its own."""


def tell(name: str) -> Words:
    """The words for a measure; one of an unknown name goes by its name."""
    first, _, rest = name.partition("/")
    part, bare = (first, rest) if first in PARTS and rest else ("", name)
    for words in WORDS:
        found = re.fullmatch(words.pattern, name) or re.fullmatch(words.pattern, bare)
        if found:
            caught = [spelled(text) for text in found.groups()]
            return words._replace(title=words.title.format(*caught), why=words.why.format(*caught), part=part)
    return Words(name, OTHER, name, 0, "A measure that this page has no words for.")


def spelled(caught: str) -> str:
    """What a pattern caught, as words."""
    return SPELLED.get(caught, caught.removeprefix("curve/").replace("_", " "))
