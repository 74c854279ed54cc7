"""Outboxes to a tracking server: each becomes one run there, however often sending was cut."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from viewfold.jobs.outbox import About, Outbox, Row, Sent
from viewfold.jobs.registry_server import (
    MAX_PARAM_CHARS,
    SQLITE,
    experiment_id,
    first_line,
    loaded_mlflow,
    require_writable,
    shown,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

ROWS_AT_ONCE = 100
ID_TAG = "viewfold.outbox"
"""A run's outbox, by which it is found again when the note of the run's id was lost."""
GONE, REFUSED = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"
"""How MLflow says that it does not know the run, and that it will never take what it was given."""


class Sender:
    """Brings outboxes to the server at `uri`. Every method but the first blocks as long as the server lets it."""

    def __init__(self, uri: str) -> None:
        """Asks nothing yet."""
        self.uri, self.shown = uri, shown(uri)
        self._client: MlflowClient | None = None

    def send(self, box: Outbox) -> bool:
        """Send what is new in `box`; True when it was over, all of it is there, and the outbox is removed.

        Whole pieces are noted as they arrive, so that a call that fails is gone on with by the next. What the server
        refuses for good is left out, with a warning.

        Raises:
            MlflowException: the server does not answer.
            InvalidInput: a database on this machine's disk can only be read.
            OSError: there is no room for one, or a file was not taken.
        """
        if self.uri.startswith(SQLITE):
            require_writable(self.uri, Path(self.uri.removeprefix(SQLITE)).parent)
        ended = box.ended  # asked first: what was appended before the end is then sent
        sent = box.sent(self.shown)
        try:
            if not sent.run_id:
                sent = self._noted(box, replace(sent, run_id=self._begun(box)))
            sent = self._send_rows(box, sent)
            self._send_files(box, sent)
            if ended is None:
                return False
            status, time = ended
            self._unless_refused(box, lambda: self.client.set_terminated(sent.run_id, status, time))
        except loaded_mlflow().MlflowException as error:
            if error.error_code == GONE:  # a server with another memory: all of it is sent anew
                box.note(Sent(uri=self.shown))
            raise
        box.remove()
        return True

    @property
    def client(self) -> "MlflowClient":
        """Made when it is first needed, for the store behind it may have to be made, too."""
        if self._client is None:
            self._client = loaded_mlflow().MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    def _begun(self, box: Outbox) -> str:
        """The id of the run on the server, with its parameters."""
        run_id = self._run(box.about)
        param = loaded_mlflow().entities.Param
        params = [param(key, value[:MAX_PARAM_CHARS]) for key, value in box.about.params.items()]
        self._unless_refused(box, lambda: self.client.log_batch(run_id, params=params))
        return run_id

    def _run(self, about: About) -> str:
        """The run's id on the server, which may have it already."""
        experiment = experiment_id(self.client, about.experiment, uri=self.uri, home=Path(about.home))
        for known in self.client.search_runs([experiment], filter_string=f"tags.`{ID_TAG}` = '{about.id}'"):
            return str(known.info.run_id)
        tags = {**about.tags, ID_TAG: about.id}
        run = self.client.create_run(experiment, start_time=about.began, run_name=about.name, tags=tags)
        return str(run.info.run_id)

    def _send_rows(self, box: Outbox, sent: Sent) -> Sent:
        rows = box.rows(sent.row_bytes)
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            metrics = [metric for row, _ in batch for metric in _metrics(row)]
            run_id = sent.run_id
            self._unless_refused(box, lambda m=metrics, r=run_id: self.client.log_batch(r, metrics=m))  # type: ignore[misc]
            sent = self._noted(box, replace(sent, row_bytes=batch[-1][1]))
        return sent

    def _send_files(self, box: Outbox, sent: Sent) -> None:
        for where, file in box.files():
            name = f"{where}/{file.name}"
            if name not in sent.files:
                self.client.log_artifact(sent.run_id, str(file), where or None)
                sent = self._noted(box, replace(sent, files=(*sent.files, name)))

    def _noted(self, box: Outbox, sent: Sent) -> Sent:
        box.note(sent)
        return sent

    def _unless_refused(self, box: Outbox, send: Callable[[], object]) -> None:
        try:
            send()
        except loaded_mlflow().MlflowException as error:
            if error.error_code != REFUSED:
                raise
            print(f"warning: MLflow refuses part of {box.about.name}: {first_line(error)}", file=sys.stderr)


def _metrics(row: Row) -> "Iterator[Metric]":
    metric = loaded_mlflow().entities.Metric
    return (metric(name, value, row.time, row.step) for name, value in row.values.items())
