"""What the service counts, for Prometheus. One registry for the process."""

from viewfold.errors import MissingDependency
from viewfold.retrieval.drift import Drift
from viewfold.retrieval.selection.demos import DemoSet
from viewfold.retrieval.service.backend import PairInfo

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
except ModuleNotFoundError:
    raise MissingDependency("the service needs prometheus_client: pip install 'viewfold[serve]'") from None

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_COSINES = (-1, 0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 0.999, 1)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Counter("viewfold_requests_total", "Requests answered.", ["route", "code"], registry=REGISTRY)
SECONDS = Histogram("viewfold_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=REGISTRY)
BATCH_SIZE = Histogram(
    "viewfold_batch_size", "Images or queries in one call.", ["stage"], buckets=_SIZES, registry=REGISTRY
)
IN_FLIGHT = Gauge("viewfold_in_flight", "Requests being answered.", registry=REGISTRY)
INDEX_VECTORS = Gauge("viewfold_index_vectors", "Vectors in the index that answers.", registry=REGISTRY)
PAIR = Gauge("viewfold_pair_info", "The pair that answers.", ["pair", "encoder", "bundle"], registry=REGISTRY)
RELOADS = Counter("viewfold_reload_total", "Pairs loaded or refused.", ["result"], registry=REGISTRY)
NEAREST = Histogram("viewfold_nearest_cosine", "Cosine of a query's first choice.", buckets=_COSINES, registry=REGISTRY)
DOMAINS = Counter(
    "viewfold_query_domain_total", "Queries by the domain of their first choice.", ["domain"], registry=REGISTRY
)
DRIFT_QUERIES = Gauge("viewfold_drift_queries", "Latest queries compared with the index.", registry=REGISTRY)
DRIFT_PSI = Gauge(
    "viewfold_drift_psi", "PSI between the latest queries and the index.", ["of", "kind"], registry=REGISTRY
)
DRIFT_KS = Gauge("viewfold_drift_ks", "KS between the latest queries and the index.", ["of", "kind"], registry=REGISTRY)

CONTENT_TYPE = CONTENT_TYPE_LATEST


def count_choices(chosen: list[DemoSet]) -> None:
    """Count what queries are like, by their first choices: how far from the index, and in which domain."""
    for demos in chosen:
        if demos.strategy != "random" and demos.fallback is None and demos.items:
            first = min(demos.items, key=lambda item: item.rank)
            NEAREST.observe(first.score)
            DOMAINS.labels(first.domain or "").inc()


def exposition(info: PairInfo | None, drift: Drift | None) -> bytes:
    """All metrics as Prometheus reads them; `info` is the pair that answers, `drift` what was asked of it."""
    PAIR.clear()
    INDEX_VECTORS.set(0 if info is None else info.bundle.n - info.bundle.num_deleted)
    if info is not None:
        PAIR.labels(info.id, info.encoder_id, info.bundle.id).set(1)
    _show_drift(drift)
    return generate_latest(REGISTRY)


def _show_drift(drift: Drift | None) -> None:
    """What cannot be compared has no series; `kind` is `found`, or `chance` for what chance alone would make."""
    DRIFT_PSI.clear()
    DRIFT_KS.clear()
    DRIFT_QUERIES.set(0 if drift is None else drift.queries)
    if drift is None:
        return
    shown = (
        (DRIFT_PSI, "cosine", drift.psi, drift.psi_chance),
        (DRIFT_PSI, "domain", drift.domain_psi, drift.domain_psi_chance),
        (DRIFT_KS, "cosine", drift.ks, drift.ks_chance),
    )
    for gauge, of, found, chance in shown:
        if found is not None and chance is not None:
            gauge.labels(of, "found").set(found)
            gauge.labels(of, "chance").set(chance)
