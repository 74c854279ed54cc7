"""Features to demonstrations: feature sets, FAISS index bundles, selection behind leakage guards. No torch here."""

from viewfold.retrieval.client import Client
from viewfold.retrieval.client_http import ServiceError
from viewfold.retrieval.drift import Drift
from viewfold.retrieval.features import RECORD_SCHEMA, FeatureSet, FeatureWriter, record_table
from viewfold.retrieval.features_stream import FeatureStream
from viewfold.retrieval.hashing import image_hashes, perceptual_hash
from viewfold.retrieval.index.build import BuildSettings, build_bundle, make_bundle
from viewfold.retrieval.index.bundle import BundleInfo, IndexBundle
from viewfold.retrieval.index.changes import add_images, compact_bundle, remove_images
from viewfold.retrieval.index.exchange import export_embeddings, import_embeddings
from viewfold.retrieval.index.factory import choose_factory, parse_bytes, show_bytes
from viewfold.retrieval.index.faiss_index import nearest
from viewfold.retrieval.index.inspect_bundle import inspected, inspection, scored
from viewfold.retrieval.index.neighbours import NeighbourTable, neighbour_table
from viewfold.retrieval.index.pca import principal_components
from viewfold.retrieval.index.vector_index import Hits
from viewfold.retrieval.selection.abstention import AbstainConfig
from viewfold.retrieval.selection.calibration import Calibration, fit_calibration
from viewfold.retrieval.selection.demos import DemoItem, DemoSet, Query
from viewfold.retrieval.selection.diversity import DiversityConfig
from viewfold.retrieval.selection.explaining import explain
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.selection.guards import GuardConfig
from viewfold.retrieval.selection.pipeline import select
from viewfold.retrieval.selection.quota import QuotaConfig
from viewfold.retrieval.selection.select_config import SelectConfig
from viewfold.retrieval.selection.strategies import SELECTORS
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
    "Client",
    "DemoItem",
    "DemoSet",
    "DiversityConfig",
    "Drift",
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
    "ServiceError",
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
