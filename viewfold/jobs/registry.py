"""Runs and model versions in MLflow: the only file that speaks to a tracking server.

Metrics reach the server from the run's own `metrics.jsonl`, so one that is slow or goes away delays no training step.
"""

import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.errors import InvalidInput, MissingDependency

# MLflow's bar over the files of one small model would stand among our own; it is read while mlflow is imported.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# "INFO Creating initial MLflow database tables" and the like, set before mlflow configures its own logging.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

# Nothing about a run is sent to anybody but the server that was named.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

try:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
except ModuleNotFoundError as error:
    raise MissingDependency("the registry needs mlflow: pip install 'viewfold[train]'") from error

MAX_PARAM_CHARS = 6000


@dataclass(frozen=True)
class ModelVersion:
    """One registered encoder."""

    name: str
    version: str
    encoder: Path
    """The encoder folder, on this machine."""
    tags: dict[str, str]
    """`encoder_id`, `manifest_hash`, `bundle` (where its index lies) and whatever else was registered with it."""


class TrackedRun:
    """An MLflow run that rows of `metrics.jsonl` are sent to."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        """`run_id` is an existing run of the client's server."""
        self.client, self.run_id = client, run_id
        self.failure: str | None = None
        """Why the server stopped taking rows; they are all in the run's own file."""

    def log_row(self, row: Mapping[str, Any]) -> None:
        """Send the numbers of one row, addressed by its `step`; a server that is gone costs the rows, not the run."""
        now, step = int(time.time() * 1000), int(row.get("step", 0))
        numbers = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "step"}
        if self.failure is not None:
            return
        try:
            self.client.log_batch(self.run_id, metrics=[Metric(k, float(v), now, step) for k, v in numbers.items()])
        except MlflowException as error:
            self.failure = _first_line(error)


class Registry:
    """A tracking server and model registry: `MLFLOW_TRACKING_URI`, else an SQLite file in `home`."""

    def __init__(self, home: Path) -> None:
        """`home` holds `mlflow.db` and `mlartifacts/` when no server is named; it is made when missing."""
        self.home = home.resolve()
        self.home.mkdir(parents=True, exist_ok=True)
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.home / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @contextmanager
    def run(
        self, experiment: str, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> Iterator[TrackedRun]:
        """A new run, closed as finished, or as failed when an error passes through.

        Raises:
            InvalidInput: the server does not answer, or refuses.
        """
        try:
            run = self.client.create_run(self._experiment(experiment), run_name=name, tags=dict(tags))
            flat = _flat(params)
            self.client.log_batch(run.info.run_id, params=[Param(k, v[:MAX_PARAM_CHARS]) for k, v in flat.items()])
        except MlflowException as error:
            raise InvalidInput(f"MLflow at {self.uri}: {_first_line(error)}; correct MLFLOW_TRACKING_URI") from None
        try:
            yield TrackedRun(self.client, run.info.run_id)
        except BaseException:
            self.client.set_terminated(run.info.run_id, "FAILED")
            raise
        self.client.set_terminated(run.info.run_id)

    def keep_card(
        self, name: str, card: Mapping[str, Any], files: Sequence[Path], *, params: Mapping[str, Any], encoder_id: str
    ) -> None:
        """Send a card to the server as a run `name`: measures of its `trained` encoder, and `files` below `card/`.

        A server that is gone costs a warning: the card lies in its files, and was long to make.
        """
        now = int(time.time() * 1000)
        measures = [Metric(m["name"], float(m["value"]), now, 0) for m in card["measures"]["trained"]]
        tags = {"encoder_id": encoder_id, "manifest_hash": card["data"]["val"]["manifest_hash"]}
        try:
            with self.run("viewfold", name, params=params, tags=tags) as run:
                self.client.log_batch(run.run_id, metrics=measures)
                for file in files:
                    self.client.log_artifact(run.run_id, str(file), "card")
        except (InvalidInput, MlflowException) as error:
            print(f"warning: MLflow did not take the card ({_first_line(error)}); it is in {files[0]}", file=sys.stderr)

    def register(
        self,
        name: str,
        files: Mapping[str, Path],
        *,
        dim: int,
        run: TrackedRun,
        tags: Mapping[str, str],
        alias: str,
    ) -> str:
        """Log `files` as a model of `run`, register it as `name`, point `alias` at it; returns the version.

        `files` has the folder `encoder`, and whatever travels with it: the `card`, where it was measured.

        The model has a tensor signature with a free batch axis: uint8 `[-1, -1, -1, 3]` to float32 `[-1, dim]`.
        """
        import numpy as np
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, dim))]),
        )
        with self._as_default():
            logged = self._log(files, run, signature)
            if not self.client.search_registered_models(filter_string=f"name = '{name}'"):
                self.client.create_registered_model(name)
            version = self.client.create_model_version(
                name, source=logged.model_uri, run_id=run.run_id, tags=dict(tags), model_id=logged.model_id
            ).version
            self.client.set_registered_model_alias(name, alias, version)
        return str(version)

    def resolve(self, uri: str) -> ModelVersion:
        """Find `models:/name@alias` or `models:/name/version` and bring its encoder folder to this machine."""
        import mlflow

        body = uri.removeprefix("models:/")
        name, at, alias = body.partition("@")
        try:
            if at:
                found = self.client.get_model_version_by_alias(name, alias)
            else:
                name, _, number = body.partition("/")
                found = self.client.get_model_version(name, number)
            with self._as_default():
                folder = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{found.version}")
        except MlflowException as error:
            raise InvalidInput(f"{uri}: not found in {self.uri}: {_first_line(error)}") from None
        encoder = next(Path(folder).glob("artifacts/*/encoder.json"), None)
        if encoder is None:
            raise InvalidInput(f"{uri}: this model holds no viewfold encoder folder")
        return ModelVersion(name, str(found.version), encoder.parent, dict(found.tags))

    def _log(self, files: Mapping[str, Path], run: TrackedRun, signature: Any) -> Any:
        """The files as a model of `run`."""
        import mlflow

        from viewfold import __version__

        with mlflow.start_run(run_id=run.run_id), warnings.catch_warnings():
            # It wants type hints and an example, from which it would guess the signature that it is given here.
            warnings.simplefilter("ignore", UserWarning)
            return mlflow.pyfunc.log_model(
                name="encoder",
                python_model=str(Path(__file__).with_name("pyfunc_encoder.py")),
                artifacts={name: str(path) for name, path in files.items()},
                signature=signature,
                pip_requirements=[f"viewfold[train]=={__version__}"],  # named, since inferring it would load the model
            )

    @contextmanager
    def _as_default(self) -> Iterator[None]:
        """This server as the one that mlflow's module functions use; they set it in the environment, too."""
        import mlflow

        names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
        before = {name: os.environ.get(name) for name in names}
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before[names[0]])  # type: ignore[arg-type]  # None is what it starts with
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = self.uri.startswith("sqlite:")
        location = (self.home / "mlartifacts").as_uri() if local else None
        return str(self.client.create_experiment(name, artifact_location=location))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested plain data as dotted names, which is how MLflow shows parameters."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
