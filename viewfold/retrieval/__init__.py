"""Features to demonstrations: feature sets, FAISS index bundles, selection behind leakage guards. No torch here."""

from viewfold.retrieval.abstention import AbstainConfig
from viewfold.retrieval.build import BuildSettings, build_bundle, make_bundle
from viewfold.retrieval.bundle import BundleInfo, IndexBundle
from viewfold.retrieval.calibration import Calibration, fit_calibration
from viewfold.retrieval.changes import add_images, compact_bundle, remove_images
from viewfold.retrieval.demos import DemoItem, DemoSet, Query
from viewfold.retrieval.diversity import DiversityConfig
from viewfold.retrieval.exchange import export_embeddings, import_embeddings
from viewfold.retrieval.explaining import explain
from viewfold.retrieval.factory import choose_factory, parse_bytes, show_bytes
from viewfold.retrieval.faiss_index import Hits, nearest
from viewfold.retrieval.features import RECORD_SCHEMA, FeatureSet, FeatureWriter, record_table
from viewfold.retrieval.features_stream import FeatureStream
from viewfold.retrieval.filters import FilterConfig
from viewfold.retrieval.guards import GuardConfig
from viewfold.retrieval.hashing import image_hashes, perceptual_hash
from viewfold.retrieval.inspect_bundle import inspected, inspection, scored
from viewfold.retrieval.neighbours import NeighbourTable, neighbour_table
from viewfold.retrieval.pca import principal_components
from viewfold.retrieval.quota import QuotaConfig
from viewfold.retrieval.select_config import SelectConfig
from viewfold.retrieval.selection import select
from viewfold.retrieval.strategies import SELECTORS
from viewfold.retrieval.vote import (
    Interval,
    VoteOutcomes,
    VoteReport,
    majority,
    mean_interval,
    vote_outcomes,
    vote_report,
)

__all__ = [
    "RECORD_SCHEMA",
    "SELECTORS",
    "AbstainConfig",
    "BuildSettings",
    "BundleInfo",
    "Calibration",
    "DemoItem",
    "DemoSet",
    "DiversityConfig",
    "FeatureSet",
    "FeatureStream",
    "FeatureWriter",
    "FilterConfig",
    "GuardConfig",
    "Hits",
    "IndexBundle",
    "Interval",
    "NeighbourTable",
    "Query",
    "QuotaConfig",
    "SelectConfig",
    "VoteOutcomes",
    "VoteReport",
    "add_images",
    "build_bundle",
    "choose_factory",
    "compact_bundle",
    "explain",
    "export_embeddings",
    "fit_calibration",
    "image_hashes",
    "import_embeddings",
    "inspected",
    "inspection",
    "majority",
    "make_bundle",
    "mean_interval",
    "nearest",
    "neighbour_table",
    "parse_bytes",
    "perceptual_hash",
    "principal_components",
    "record_table",
    "remove_images",
    "scored",
    "select",
    "show_bytes",
    "vote_outcomes",
    "vote_report",
]
