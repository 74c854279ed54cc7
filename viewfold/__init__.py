"""Many views of one thing, folded into one representation.

The names below are loaded when they are first used, each with what it needs: `import viewfold` alone loads nothing.
The examples in their docstrings stand beside a run in `runs/mine`, a folder `shards` of 24 labelled images, and an
image `PHOTO.png`.

>>> import viewfold as vf
>>> pair = vf.open_pair("runs/mine", "runs")
>>> asked = vf.embed(pair.encoder, ["PHOTO.png"])
>>> (demos,) = vf.select(pair.bundle, vf.queries(asked), vf.SelectConfig(k=3))
>>> [item.rank for item in demos.items]
[3, 2, 1]
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # what type checkers take for true; importing it from `typing` would load that

if TYPE_CHECKING:
    from viewfold.augment import POLICIES
    from viewfold.jobs.ask_pair import open_pair
    from viewfold.jobs.evaluate_config import EvaluateConfig
    from viewfold.jobs.notebook import embed, embed_shards, queries
    from viewfold.jobs.notebook_card import Card, evaluate
    from viewfold.retrieval import (
        Client,
        DemoSet,
        FeatureSet,
        IndexBundle,
        Query,
        SelectConfig,
        build_bundle,
        select,
    )
    from viewfold.ssl.encoder import Encoder, load_encoder
    from viewfold.ssl.methods import METHODS
else:
    _MODULES = {
        "METHODS": "viewfold.ssl.methods",
        "POLICIES": "viewfold.augment",
        "Card": "viewfold.jobs.notebook_card",
        "Client": "viewfold.retrieval",
        "DemoSet": "viewfold.retrieval",
        "Encoder": "viewfold.ssl.encoder",
        "EvaluateConfig": "viewfold.jobs.evaluate_config",
        "FeatureSet": "viewfold.retrieval",
        "IndexBundle": "viewfold.retrieval",
        "Query": "viewfold.retrieval",
        "SelectConfig": "viewfold.retrieval",
        "build_bundle": "viewfold.retrieval",
        "embed": "viewfold.jobs.notebook",
        "embed_shards": "viewfold.jobs.notebook",
        "evaluate": "viewfold.jobs.notebook_card",
        "load_encoder": "viewfold.ssl.encoder",
        "open_pair": "viewfold.jobs.ask_pair",
        "queries": "viewfold.jobs.notebook",
        "select": "viewfold.retrieval",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "METHODS",
    "POLICIES",
    "Card",
    "Client",
    "DemoSet",
    "Encoder",
    "EvaluateConfig",
    "FeatureSet",
    "IndexBundle",
    "Query",
    "SelectConfig",
    "build_bundle",
    "embed",
    "embed_shards",
    "evaluate",
    "load_encoder",
    "open_pair",
    "queries",
    "select",
]
