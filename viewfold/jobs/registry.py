"""Versions of models in MLflow, and the names (aliases) by which they are found."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewfold.errors import InvalidInput
from viewfold.folders import writing_to
from viewfold.jobs.registry_model import forget_logged, log_encoder, model_folder
from viewfold.jobs.registry_server import (
    MAX_PARAM_CHARS,
    SQLITE,
    experiment_id,
    first_line,
    loaded_mlflow,
    require_writable,
    server_uri,
    shown,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

CHAMPION = "champion"
"""The alias of the version that services follow."""
CHALLENGER = "challenger"
"""The alias of a version that is to be judged against the champion."""

MODELS = "mlmodels"
"""The folder of `home` with what was brought from a store elsewhere; who removes it has it brought again."""
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""How MLflow says that there is no such model (the first) or alias (the second)."""
SAME = ("encoder_id", "bundle_id", "run")
"""Tags by which a version that is registered once more is known again."""


@dataclass(frozen=True)
class ModelVersion:
    """One registered encoder."""

    name: str
    version: str
    encoder: Path
    """The encoder folder, on this machine."""
    tags: dict[str, str]
    """`encoder_id`, `manifest_hash`, `bundle` (where its index lies) and whatever else was registered with it."""


@dataclass(frozen=True)
class VersionFacts:
    """What the registry knows of one version of a model."""

    name: str
    version: str
    created: datetime
    """In UTC."""
    tags: dict[str, str]
    aliases: tuple[str, ...]
    """Those that point at it now."""


@dataclass(frozen=True)
class TrackedRun:
    """An MLflow run that a model is logged in."""

    run_id: str


class Registry:
    """A tracking server and model registry: `MLFLOW_TRACKING_URI`, else an SQLite file in `home`."""

    def __init__(self, home: Path) -> None:
        """`home` holds `mlflow.db` and `mlartifacts/` when no server is named; it is made when missing."""
        self.home = home.resolve()
        self.home.mkdir(parents=True, exist_ok=True)
        self.uri = server_uri(self.home)

    @cached_property
    def client(self) -> "MlflowClient":
        """Made when it is first needed: behind it a store may have to be made or found.

        Raises:
            InvalidInput: there is no registry in `home`, and none can be made: MLflow itself would try for minutes.
        """
        store = self.home / "mlflow.db"
        if self.uri == f"{SQLITE}{store}" and not store.exists() and not os.access(self.home, os.W_OK):
            raise InvalidInput(
                f"{self.home}: holds no mlflow.db, and cannot be written; name another folder with --home"
            )
        with self._answered():
            made: MlflowClient = loaded_mlflow().MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            return made

    @contextmanager
    def run(
        self, experiment: str, name: str, *, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> Iterator[TrackedRun]:
        """A new run on the server, closed as finished, or as failed when an error passes through.

        Raises:
            InvalidInput: the server does not answer, or refuses.
            OSError: there is no room for a local one.
        """
        require_writable(self.uri, self.home)
        with self._answered():
            where = experiment_id(self.client, experiment, uri=self.uri, home=self.home)
            param = loaded_mlflow().entities.Param
            run_id = str(self.client.create_run(where, run_name=name, tags=dict(tags)).info.run_id)
            self.client.log_batch(run_id, params=[param(k, v[:MAX_PARAM_CHARS]) for k, v in params.items()])
        try:
            yield TrackedRun(run_id)
        except BaseException:
            with suppress(loaded_mlflow().MlflowException):  # what went wrong first is what is told
                self.client.set_terminated(run_id, "FAILED")
            raise
        with self._answered():
            self.client.set_terminated(run_id)

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

        A version with the same `encoder_id`, `bundle_id` and `run` among its tags is found again, not made twice.
        `files` has the folder `encoder`, and whatever travels with it: the `card`, where it was measured.

        Raises:
            InvalidInput: the server does not answer, or refuses.
            OSError: there is no room for a local one.
        """
        found = self._same(name, tags)
        if found is not None:
            self.point(name, alias, found.version)
            return found.version
        require_writable(self.uri, self.home, files.values())
        with self._answered(), self._as_default():
            try:
                logged = log_encoder(files, run_id=run.run_id, dim=dim)
            except BaseException:
                with suppress(loaded_mlflow().MlflowException):  # what went wrong first is what is told
                    forget_logged(self.client, run.run_id)
                raise
            if not self.client.search_registered_models(filter_string=f"name = '{name}'"):
                self.client.create_registered_model(name)
            version = self.client.create_model_version(
                name, source=logged.model_uri, run_id=run.run_id, tags=dict(tags), model_id=logged.model_id
            ).version
            self.client.set_registered_model_alias(name, alias, version)
        return str(version)

    def resolve(self, uri: str) -> ModelVersion:
        """Find `models:/name@alias` or `models:/name/version` and bring its encoder folder to this machine.

        Raises:
            InvalidInput: there is none, it has no encoder, or the server or its store does not answer.
        """
        found = self._found(uri)
        name = str(found.name)
        try:
            with self._as_default():
                folder = model_folder(self.client, name, str(found.version), kept=self.home / MODELS)
        except (loaded_mlflow().MlflowException, OSError) as error:
            raise InvalidInput(f"{uri}: not found in {shown(self.uri)}: {first_line(error)}") from None
        encoder = next(folder.glob("artifacts/*/encoder.json"), None)
        if encoder is None:
            raise InvalidInput(f"{uri}: this model holds no viewfold encoder folder")
        return ModelVersion(name, str(found.version), encoder.parent, dict(found.tags))

    def version_of(self, uri: str) -> str:
        """The version that `models:/name@alias` or `models:/name/version` names now; nothing is brought here.

        Raises:
            InvalidInput: there is none, or the server does not answer.
        """
        return str(self._found(uri).version)

    def facts(self, uri: str) -> VersionFacts:
        """What is known of the version that `models:/name@alias` or `models:/name/version` names; nothing is fetched.

        Raises:
            InvalidInput: there is none, or the server does not answer.
        """
        return _facts(self._found(uri))

    def find(self, name: str, alias: str) -> VersionFacts | None:
        """The version that an alias points at; None where there is no such model or alias.

        Raises:
            InvalidInput: the server does not answer.
        """
        try:
            found = self.client.get_model_version_by_alias(name, alias)
            return _facts(found, found.aliases or [alias])
        except loaded_mlflow().MlflowException as error:
            if error.error_code in UNKNOWN:
                return None
            raise self._silent(error) from None

    def versions(self, name: str) -> list[VersionFacts]:
        """All versions of a model, the newest first; none where the model is unknown.

        Raises:
            InvalidInput: the server does not answer.
        """
        found: list[VersionFacts] = []
        page: str | None = None
        try:
            aliases = self.client.get_registered_model(name).aliases
            while True:
                some = self.client.search_model_versions(f"name = '{name}'", page_token=page)
                found += [_facts(one, [a for a, v in aliases.items() if str(v) == str(one.version)]) for one in some]
                page = some.token
                if not page:
                    return sorted(found, key=lambda one: int(one.version), reverse=True)
        except loaded_mlflow().MlflowException as error:
            if error.error_code in UNKNOWN:
                return []
            raise self._silent(error) from None

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version, each over what it had before.

        Raises:
            InvalidInput: there is no such version, or the server does not answer.
        """
        require_writable(self.uri, self.home)
        with self._answered():
            for key, value in tags.items():
                self.client.set_model_version_tag(name, version, key, value)

    def point(self, name: str, alias: str, version: str) -> None:
        """Let an alias point at a version, and no more at any other; one call, so a reader sees the old or the new one.

        Raises:
            InvalidInput: there is no such version, or the server does not answer.
        """
        require_writable(self.uri, self.home)
        with self._answered():
            self.client.set_registered_model_alias(name, alias, version)

    def drop(self, name: str, alias: str) -> None:
        """Take an alias away, if it is there.

        Raises:
            InvalidInput: the server does not answer.
        """
        require_writable(self.uri, self.home)
        try:
            self.client.delete_registered_model_alias(name, alias)
        except loaded_mlflow().MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise self._silent(error) from None

    def _same(self, name: str, tags: Mapping[str, str]) -> VersionFacts | None:
        if "encoder_id" not in tags:  # nothing to know it by
            return None
        wanted = [tags.get(key) for key in SAME]
        for one in self.versions(name):
            if [one.tags.get(key) for key in SAME] == wanted:
                return one
        return None

    @contextmanager
    def _answered(self) -> Iterator[None]:
        local = self.uri.startswith(SQLITE)
        try:
            with writing_to(self.home) if local else nullcontext():
                yield
        except loaded_mlflow().MlflowException as error:
            raise self._silent(error) from None

    def _silent(self, error: "MlflowException") -> InvalidInput:
        cure = "" if error.error_code in UNKNOWN else "; correct MLFLOW_TRACKING_URI, or wait until it answers"
        return InvalidInput(f"MLflow at {shown(self.uri)}: {first_line(error)}{cure}")

    def _found(self, uri: str) -> Any:
        body = uri.removeprefix("models:/")
        name, at, alias = body.partition("@")
        try:
            if at:
                return self.client.get_model_version_by_alias(name, alias)
            name, _, number = body.partition("/")
            return self.client.get_model_version(name, number)
        except loaded_mlflow().MlflowException as error:
            raise InvalidInput(f"{uri}: not found in {shown(self.uri)}: {first_line(error)}") from None

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


def _facts(found: Any, aliases: Sequence[str] | None = None) -> VersionFacts:
    return VersionFacts(
        name=str(found.name),
        version=str(found.version),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        tags=dict(found.tags),
        aliases=tuple(sorted(found.aliases if aliases is None else aliases)),
    )
