"""The verbs `promote`, `rollback` and `history`: which version of a model is the champion."""

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model of the registry.")]
Home = Annotated[Path, typer.Option(help="Folder of the local registry (mlflow.db).")]


def promote(
    name: Name,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the gates, such as knn.at_least=0.8."),
    ] = None,
    *,
    gates: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="The gates; default: those of docs/gates.md.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and print; change nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the gates say; its tags say so.")] = False,
    home: Home = Path("runs"),
) -> None:
    """The challenger of a model held against its gates, and made champion where it passes; exit code 1 if not."""
    from viewfold.errors import InvalidInput
    from viewfold.jobs.champion import promote_challenger

    if dry_run and force:
        raise InvalidInput("--force has no effect with --dry-run, which moves nothing; leave one out")
    said, good = promote_challenger(name, settings or [], gates=gates, home=home, dry_run=dry_run, force=force)
    typer.echo(said)
    raise typer.Exit(0 if good else 1)


def rollback(
    name: Name,
    to: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Which; default: the one that the champion replaced.")
    ] = None,
    reason: Annotated[str, typer.Option(help="What the version that leaves is tagged with.")] = "by hand",
    home: Home = Path("runs"),
) -> None:
    """An earlier version made champion again; services that follow the alias take it up by themselves."""
    from viewfold.jobs.champion import roll_back_to

    typer.echo(roll_back_to(name, to=to, reason=reason, home=home))


def history(
    name: Name,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    home: Home = Path("runs"),
) -> None:
    """The versions of a model: how each was judged, who is champion and since when."""
    from viewfold.jobs.champion import history_of

    typer.echo(history_of(name, home=home, as_json=json))
