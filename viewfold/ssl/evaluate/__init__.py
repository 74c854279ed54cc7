"""How good an encoder is: protocols on frozen features, one measure a number, chance level and interval beside it."""

from viewfold.ssl.evaluate.centroids import k_means
from viewfold.ssl.evaluate.chance import hit_chance, mrr_chance
from viewfold.ssl.evaluate.classifier import linear_classifier
from viewfold.ssl.evaluate.clusters import clustering, clustering_measures
from viewfold.ssl.evaluate.coding import best_num_clusters, coding_length
from viewfold.ssl.evaluate.contingency import ClusterScores, clustering_scores
from viewfold.ssl.evaluate.curves import Curve, Transformation, drift_curve, invariance_curve
from viewfold.ssl.evaluate.domains import domain_gap
from viewfold.ssl.evaluate.filters import FilterReport, degenerate_filters
from viewfold.ssl.evaluate.hypersphere import alignment, uniformity
from viewfold.ssl.evaluate.interval import Interval, bootstrap, difference
from viewfold.ssl.evaluate.knn import knn_accuracy
from viewfold.ssl.evaluate.linear import linear_accuracy
from viewfold.ssl.evaluate.measure import Measure, Split
from viewfold.ssl.evaluate.official_batchnorm import with_batch_statistics
from viewfold.ssl.evaluate.outliers import detection
from viewfold.ssl.evaluate.pairs import Pairs, draw_pairs, relation_pairs
from viewfold.ssl.evaluate.pose_retrieval import Gallery, Search, nearest, prediction_error
from viewfold.ssl.evaluate.precision import retrieval_precision
from viewfold.ssl.evaluate.r2 import official_r2, variance_weighted_r2
from viewfold.ssl.evaluate.rank import rank_measure
from viewfold.ssl.evaluate.relation import PairProbeConfig, relation_r2
from viewfold.ssl.evaluate.retrieval import PredictedViews, predict_views, view_ranks, view_retrieval
from viewfold.ssl.evaluate.ridge import fitted_predictor
from viewfold.ssl.evaluate.shift import shift_measures
from viewfold.ssl.evaluate.spectral import knn_affinity, spectral_clusterings, spectral_clusters
from viewfold.ssl.evaluate.subspaces import (
    Subspaces,
    class_ranks,
    class_subspaces,
    nearest_subspace,
    numerical_rank,
    subspace_affinity,
    subspace_residuals,
)

__all__ = [
    "ClusterScores",
    "Curve",
    "FilterReport",
    "Gallery",
    "Interval",
    "Measure",
    "PairProbeConfig",
    "Pairs",
    "PredictedViews",
    "Search",
    "Split",
    "Subspaces",
    "Transformation",
    "alignment",
    "best_num_clusters",
    "bootstrap",
    "class_ranks",
    "class_subspaces",
    "clustering",
    "clustering_measures",
    "clustering_scores",
    "coding_length",
    "degenerate_filters",
    "detection",
    "difference",
    "domain_gap",
    "draw_pairs",
    "drift_curve",
    "fitted_predictor",
    "hit_chance",
    "invariance_curve",
    "k_means",
    "knn_accuracy",
    "knn_affinity",
    "linear_accuracy",
    "linear_classifier",
    "mrr_chance",
    "nearest",
    "nearest_subspace",
    "numerical_rank",
    "official_r2",
    "predict_views",
    "prediction_error",
    "rank_measure",
    "relation_pairs",
    "relation_r2",
    "retrieval_precision",
    "shift_measures",
    "spectral_clusterings",
    "spectral_clusters",
    "subspace_affinity",
    "subspace_residuals",
    "uniformity",
    "variance_weighted_r2",
    "view_ranks",
    "view_retrieval",
    "with_batch_statistics",
]
