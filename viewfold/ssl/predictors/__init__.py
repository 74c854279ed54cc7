"""Predictors of an equivariant embedding. A new one is one file, and one line of `PREDICTORS`."""

from viewfold.ssl.predictors.deep import DeepPredictor, DeepPredictorConfig
from viewfold.ssl.predictors.generated import GeneratedPredictor, GeneratedPredictorConfig
from viewfold.ssl.predictors.linear import LinearPredictor, LinearPredictorConfig
from viewfold.ssl.predictors.mlp import MLPPredictor, MLPPredictorConfig
from viewfold.ssl.predictors.predictor import Predictor, PredictorConfig

PREDICTORS: dict[str, type[Predictor]] = {
    "deep": DeepPredictor,
    "generated": GeneratedPredictor,
    "linear": LinearPredictor,
    "mlp": MLPPredictor,
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
    "DeepPredictor",
    "DeepPredictorConfig",
    "GeneratedPredictor",
    "GeneratedPredictorConfig",
    "LinearPredictor",
    "LinearPredictorConfig",
    "MLPPredictor",
    "MLPPredictorConfig",
    "Predictor",
    "PredictorConfig",
    "build_predictor",
]
