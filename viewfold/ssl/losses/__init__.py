"""Losses: pure functions of embeddings. A new one adds one file, one line here and one test file."""

from viewfold.ssl.losses.cci import Pairs, cci_loss, class_pairs
from viewfold.ssl.losses.classification import classification_loss
from viewfold.ssl.losses.equivariance import equivariance_loss
from viewfold.ssl.losses.info_nce import info_nce_loss
from viewfold.ssl.losses.rate import Rate, coding_rate, partition_rate
from viewfold.ssl.losses.triplet import choose_negatives, of_other_parents, triplet_ranking_loss
from viewfold.ssl.losses.vicreg import covariance_loss, invariance_loss, variance_hinge

__all__ = [
    "Pairs",
    "Rate",
    "cci_loss",
    "choose_negatives",
    "class_pairs",
    "classification_loss",
    "coding_rate",
    "covariance_loss",
    "equivariance_loss",
    "info_nce_loss",
    "invariance_loss",
    "of_other_parents",
    "partition_rate",
    "triplet_ranking_loss",
    "variance_hinge",
]
