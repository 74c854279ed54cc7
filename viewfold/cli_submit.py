"""The verb `submit`: a command line for a cluster that runs already."""

import sys
from pathlib import Path
from typing import Annotated

import typer

# What this verb does not know is a word of the other one, which has options too.
PASSES_ON = {"ignore_unknown_options": True}


def submit(  # noqa: PLR0913 - each is one word of a command line, and none is passed on: they become one configuration
    context: typer.Context,
    words: Annotated[
        list[str], typer.Argument(metavar="VERB [WORDS]...", help="What would stand after `viewfold`: run smoke ...")
    ],
    *,
    address: Annotated[
        str,
        typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard: http://head:8265."),
    ],
    follow: Annotated[bool, typer.Option(help="Print what it prints until it ends, and end as it does.")] = True,
    job_id: Annotated[
        str, typer.Option("--id", metavar="ID", help="Of the submission; default: made from the words.")
    ] = "",
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE]", help="A variable of the job's; NAME alone: as it is here. Repeatable."),
    ] = None,
    working_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder to send, where the job begins.")
    ] = None,
    print_command: Annotated[
        bool, typer.Option("--print", help="Print the same as a command of Ray's, and leave.")
    ] = False,
) -> None:
    """Run a verb on a Ray cluster by its job server; the same words again find the job that is there.

    Paths are those that the cluster's head sees; YAML files that are named by a relative path go along.
    """
    from datetime import UTC, datetime

    from viewfold.config import parse
    from viewfold.jobs.submit_config import SubmitConfig, dated, equivalent, left_to_shell, passed_on

    _check_verb(context, words[0])
    named = env or []
    data = {
        "words": dated(tuple(words), datetime.now(UTC)),
        "address": address,
        "id": job_id,
        "env": passed_on(named),
        "working_dir": working_dir,
    }
    config = parse(SubmitConfig, data, where="submit")
    if print_command:
        typer.echo(equivalent(config, left_to_shell(config.env, named), follow=follow))
        return
    from viewfold.jobs.submit import connect, watch
    from viewfold.jobs.submit import submit as send

    client = connect(config.address)
    job = send(client, config)
    typer.echo(job.sentence, err=True)
    if job.state != "succeeded" and follow:
        raise typer.Exit(watch(client, job, stops=_asks if sys.stdin.isatty() else None))


def _check_verb(context: typer.Context, verb: str) -> None:
    from viewfold.config import unknown

    root = context.find_root().command
    verbs = [name for name in root.list_commands(context) if name != "submit"]  # type: ignore[attr-defined]
    if verb not in verbs:
        raise unknown("verb", verb, verbs)


def _asks() -> bool:
    try:
        return typer.confirm("\nstop the job? (no: it runs on without you)", default=False, err=True)
    except typer.Abort:
        return False
