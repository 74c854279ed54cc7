"""An encoder as an MLflow model: code by path, weights from a folder, nothing pickled."""

import fcntl
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from viewfold import __version__
from viewfold.config import fingerprint
from viewfold.folders import whole_folder


def log_encoder(files: Mapping[str, Path], *, run_id: str, dim: int) -> Any:
    """Log `files` as a model of a run on mlflow's default server; what MLflow knows of it then.

    `files` has the folder `encoder`, and what travels with it. The model has a tensor signature with a free batch axis:
    uint8 `[-1, -1, -1, 3]` to float32 `[-1, dim]`.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, dim))]),
    )
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        # It wants type hints and an example, from which it would guess the signature that it is given here.
        warnings.simplefilter("ignore", UserWarning)
        return mlflow.pyfunc.log_model(
            name="encoder",
            python_model=str(Path(__file__).with_name("pyfunc_encoder.py")),
            artifacts={name: str(path) for name, path in files.items()},
            signature=signature,
            pip_requirements=[f"viewfold[train]=={__version__}"],  # named, since inferring it would load the model
        )


def forget_logged(client: Any, run_id: str) -> None:
    """Take away what `log_encoder` left of the models of a run when it was cut, where that is on this machine's disk.

    The files first: on a full disk it is their room that the database needs to note the rest.
    """
    experiment = client.get_run(run_id).info.experiment_id
    for logged in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'"):
        place = str(logged.artifact_location)
        if place.startswith(("/", "file:")):
            shutil.rmtree(unquote(urlsplit(place).path), ignore_errors=True)
        client.delete_logged_model(logged.model_id)


def model_folder(client: Any, name: str, version: str, *, kept: Path) -> Path:
    """The folder of a version's files on mlflow's default server: where they lie, if that is this machine's disk.

    Else they are brought to `kept/NAME/VERSION-DIGEST`, once: what a version holds never changes, and the digest tells
    apart those of other servers, or of a model that was deleted and made again.
    """
    import mlflow

    uri, source = f"models:/{name}/{version}", str(client.get_model_version_download_uri(name, version))
    if source.startswith("models:/"):
        source = str(client.get_logged_model(source.removeprefix("models:/")).artifact_location)
    if source.startswith(("/", "file:")):
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    folder = kept / name / f"{version}-{fingerprint(source)[:8]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes meanwhile waits, and finds it
        if not folder.exists():
            with whole_folder(folder) as part:
                mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(part))
    return folder
