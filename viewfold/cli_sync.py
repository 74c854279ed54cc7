"""The verb `sync`: what a tracking server could not take while a run went on."""

from pathlib import Path
from typing import Annotated

import typer


def sync(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders that hold some.")],
) -> None:
    """Send what the tracking server did not take during a run: to MLFLOW_TRACKING_URI, or where it was to go."""
    from viewfold.jobs.courier import sync

    typer.echo(sync(runs))
