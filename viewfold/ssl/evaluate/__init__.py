"""How good an encoder is: protocols on frozen features, one measure a number, chance level and interval beside it."""

from viewfold.ssl.evaluate.chance import hit_chance, mrr_chance
from viewfold.ssl.evaluate.interval import bootstrap
from viewfold.ssl.evaluate.knn import knn_accuracy
from viewfold.ssl.evaluate.linear import linear_accuracy
from viewfold.ssl.evaluate.measure import Measure, Split
from viewfold.ssl.evaluate.rank import rank_measure
from viewfold.ssl.evaluate.rotation import (
    PairProbeConfig,
    Pairs,
    draw_pairs,
    official_r2,
    relation_r2,
    rotation_pairs,
    variance_weighted_r2,
)

__all__ = [
    "Measure",
    "PairProbeConfig",
    "Pairs",
    "Split",
    "bootstrap",
    "draw_pairs",
    "hit_chance",
    "knn_accuracy",
    "linear_accuracy",
    "mrr_chance",
    "official_r2",
    "rank_measure",
    "relation_r2",
    "rotation_pairs",
    "variance_weighted_r2",
]
