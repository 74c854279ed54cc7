"""The encoder as MLflow loads it: code by path, weights from the artifact folder, nothing pickled.

MLflow executes this file when a registered encoder is loaded with `mlflow.pyfunc.load_model`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from viewfold.ssl.encoder import load_encoder


class EncoderModel(PythonModel):
    """Images in, invariant features out."""

    def load_context(self, context: Any) -> None:
        """Open the encoder folder that was logged as the artifact `encoder`."""
        self.encoder = load_encoder(Path(context.artifacts["encoder"]))

    # Plain `np.ndarray`: of any more exact type MLflow tries to make a second signature, fails and warns at every load.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """uint8 `[n, height, width, 3]` to float32 `[n, dim]`: the invariant part, not normalised."""
        images = torch.tensor(np.ascontiguousarray(model_input)).permute(0, 3, 1, 2)
        return self.encoder.encode(images).invariant.numpy()


set_model(EncoderModel())
