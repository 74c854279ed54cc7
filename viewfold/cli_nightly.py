"""The verb `nightly`: what a scheduler starts every night."""

from pathlib import Path
from typing import Annotated

import typer


def nightly(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The settings: docs/nightly.md has them all.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Other settings, such as steps=500 keep=5.")
    ] = None,
    *,
    date: Annotated[str, typer.Option(metavar="D", help="The day that it is for; default: today, in UTC.")] = "",
    home: Annotated[Path, typer.Option(help="Folder of the local registry, and of nightly/NAME.")] = Path("runs"),
) -> None:
    """New shards become a new champion, if it is no worse: train, judge, promote, tell the service, check, or go back.

    Exit code 0: promoted, or nothing new. 1: ended without a new champion. 2: failed; the next start goes on with it.
    """
    from viewfold.config import load
    from viewfold.jobs.nightly import nightly as run
    from viewfold.jobs.nightly_config import NightlyConfig

    raise typer.Exit(run(load(NightlyConfig, config, settings or []), home=home, day=date, say=typer.echo))
