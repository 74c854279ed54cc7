"""Predictors of an equivariant embedding. A new one is one file, and one line of `PREDICTORS`."""

from viewfold.ssl.predictors.linear import LinearPredictor, LinearPredictorConfig
from viewfold.ssl.predictors.predictor import Predictor, PredictorConfig

PREDICTORS: dict[str, type[Predictor]] = {
    "linear": LinearPredictor,
}

PREDICTOR_CONFIGS: dict[str, type[PredictorConfig]] = {
    name: predictor.config_class for name, predictor in PREDICTORS.items()
}


def build_predictor(config: PredictorConfig, *, dim: int, num_params: int) -> Predictor:
    """The predictor of `config` for embeddings of width `dim` and transformations of `num_params` numbers."""
    return PREDICTORS[config.name].build(config, dim, num_params)


__all__ = [
    "PREDICTORS",
    "PREDICTOR_CONFIGS",
    "LinearPredictor",
    "LinearPredictorConfig",
    "Predictor",
    "PredictorConfig",
    "build_predictor",
]
