"""Features to demonstrations: feature sets, FAISS index bundles, selection behind leakage guards. No torch here."""

from viewfold.retrieval.build import build_bundle, write_bundle
from viewfold.retrieval.bundle import BundleInfo, IndexBundle
from viewfold.retrieval.faiss_index import Hits, nearest
from viewfold.retrieval.features import RECORD_SCHEMA, FeatureSet, FeatureWriter, record_table
from viewfold.retrieval.hashing import image_hashes, perceptual_hash
from viewfold.retrieval.neighbours import NeighbourTable, neighbour_table
from viewfold.retrieval.pca import principal_components
from viewfold.retrieval.selection import DemoItem, DemoSet, Query, SelectConfig, select
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
    "BundleInfo",
    "DemoItem",
    "DemoSet",
    "FeatureSet",
    "FeatureWriter",
    "Hits",
    "IndexBundle",
    "Interval",
    "NeighbourTable",
    "Query",
    "SelectConfig",
    "VoteOutcomes",
    "VoteReport",
    "build_bundle",
    "image_hashes",
    "majority",
    "mean_interval",
    "nearest",
    "neighbour_table",
    "perceptual_hash",
    "principal_components",
    "record_table",
    "select",
    "vote_outcomes",
    "vote_report",
    "write_bundle",
]
