"""The command line: verbs first, then a YAML file or a recipe, then `key=value`. Each verb imports what it needs."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from viewfold import __version__
from viewfold.cli_ask import ask
from viewfold.cli_data import data_app
from viewfold.cli_drift import drift
from viewfold.cli_encoder import encoder_app
from viewfold.cli_icl import icl_eval
from viewfold.cli_index import index_app, wire_stage
from viewfold.cli_manifest import manifest_app
from viewfold.cli_nightly import nightly
from viewfold.cli_registry import history, promote, rollback
from viewfold.cli_serve import serve
from viewfold.cli_submit import PASSES_ON, submit
from viewfold.cli_sync import sync
from viewfold.cli_views import augment_app, replay
from viewfold.errors import InvalidInput, ViewfoldError, one_line
from viewfold.jobs.orderly import TERMINATED, orderly_end

app = typer.Typer(
    name="viewfold",
    help="Fold many views of one thing into one representation: shards to encoders, indexes and demonstrations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipe_app = typer.Typer(help="Published runs, as YAML to copy and change.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(encoder_app, name="encoder")
app.add_typer(index_app, name="index")
app.add_typer(augment_app, name="augment")
app.add_typer(recipe_app, name="recipe")
app.add_typer(manifest_app, name="manifest")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as pretrain.steps=500."),
]
Recipe = Annotated[str, typer.Argument(metavar="RECIPE|FILE.yaml", help="A name of `viewfold recipe list`, or a file.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default runs/NAME.")]

INTERRUPTED = 130  # what typer turns Ctrl-C into
GOES_ON = "the same command goes on from the last finished stage or checkpoint"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (default: that of this process); an error of ours is one line and exit code 2."""
    # Before torch or FAISS load OpenMP, whose threads would wait by spinning on a core that others could use.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signals: list[int] = []
    try:
        with orderly_end() as signals:
            app(arguments)
    except SystemExit as stopped:
        if stopped.code != INTERRUPTED:
            raise
        terminated = signal.SIGTERM in signals
        typer.echo(f"{'terminated' if terminated else 'interrupted'}; {GOES_ON}", err=True)
        raise SystemExit(TERMINATED if terminated else INTERRUPTED) from None
    except (ViewfoldError, OSError, ModuleNotFoundError, UnicodeEncodeError) as error:
        typer.secho(f"error: {one_line(error)}", err=True, fg="red" if _colour() else None)
        raise SystemExit(2) from None


def _colour() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"viewfold {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the run goes.")] = Path("runs/demo"),
) -> None:
    """The whole story on the shipped real images: CPU, minutes. A second call reuses every stage."""
    from viewfold.jobs.demo import run_demo

    run_demo(out)


@app.command()
def doctor(
    source: Annotated[
        str | None,
        typer.Argument(metavar="[SHARDS]", help="Also see whether shards can be read there: s3://bucket/folder/."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The findings for programs.")] = False,
) -> None:
    """What this machine can do, what is missing, and how to get it; exit code 2 where ordinary work would stop."""
    from viewfold.jobs.doctor import as_json, examine, sound, table

    findings = examine(source)
    typer.echo(as_json(findings) if json else table(findings))
    raise typer.Exit(0 if sound(findings) else 2)


@app.command()
def run(recipe: Recipe, overrides: Overrides = None, out: Out = None) -> None:
    """All stages of a recipe; what is done already is found and skipped."""
    _run(recipe, overrides, out, until=None)


def _stage_verb(stage: str, help_text: str) -> None:
    def verb(recipe: Recipe, overrides: Overrides = None, out: Out = None) -> None:
        _run(recipe, overrides, out, until=stage)

    app.command(stage, help=help_text)(verb)


_stage_verb("pretrain", "A recipe up to its pretrained encoder.")
_stage_verb("adapt", "A recipe up to its adapted encoder: by class labels, mined pairs, or a second objective.")
_stage_verb("cluster", "A recipe up to the clusters of its images.")
_stage_verb("embed", "A recipe up to its feature sets.")
wire_stage(lambda recipe, overrides, out: _run(recipe, overrides, out, until="index"))


@app.command()
def mine(recipe: Recipe, overrides: Overrides = None, out: Out = None) -> None:
    """A recipe up to its mined pairs: images that show alike things, counted by kind, with a picture of some."""
    from viewfold.jobs.mine_facts import summary

    typer.echo(summary(_run(recipe, overrides, out, until="mine")["mine"].result))


def _run(recipe: str, overrides: list[str] | None, out: Path | None, *, until: str | None) -> dict[str, Any]:
    from viewfold.jobs.recipes import find
    from viewfold.jobs.run import run_recipe, summary

    config = find(recipe, overrides or [])
    folder = out or Path("runs") / config.name
    records = run_recipe(config, folder, until=until)
    typer.echo(summary(config, folder, records))
    return records


@app.command()
def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ENCODER|RECIPE", help="An encoder or run folder, models:/NAME@champion, or a recipe as for `run`."
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SHARDS]... [KEY=VALUE]...",
            help="Labelled shards that the encoder has not seen; settings of the protocols, or of the recipe.",
        ),
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(metavar="SHARDS", help="Where heads are fitted; default: on half of SHARDS, by groups."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="ENCODER", help="Another encoder, measured side by side.")
    ] = None,
    robust_crop: Annotated[
        int, typer.Option(metavar="PX", help="Also choose crops of this side by content, against one-pixel shifts.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the card, default HOME/cards/ID; or of the recipe's run."),
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of the local registry (mlflow.db); default runs.")] = None,
) -> None:
    """An encoder's card: what it ignores, what it predicts, what breaks it. Or a recipe up to its measurements."""
    from viewfold.config import is_setting

    settings = [word for word in words or [] if is_setting(word)]
    shards = [word for word in words or [] if word not in settings]
    if robust_crop:
        settings.append(f"{'' if shards else 'evaluate.'}robust_crop={robust_crop}")
    if shards:
        from viewfold.jobs.card import evaluate_folder

        typer.echo(
            evaluate_folder(
                what, shards, settings, train=train or [], against=against, out=out, home=home or Path("runs")
            )
        )
    elif train or against or Path(what).is_dir() or what.startswith("models:/"):
        raise InvalidInput(f"{what}: name the labelled shards to measure it on, such as demo:objects-val")
    elif home is not None:
        raise InvalidInput("--home has no effect on a recipe, whose registry lies above its run folder; leave it out")
    else:
        _run(what, settings, out, until="evaluate")


app.command()(ask)
app.command()(serve)
app.command()(nightly)
app.command()(drift)
app.command("icl-eval")(icl_eval)
app.command()(promote)
app.command()(rollback)
app.command()(history)
app.command()(sync)
app.command("submit", context_settings=PASSES_ON)(submit)
app.command()(replay)


@recipe_app.command("list")
def recipe_list() -> None:
    """Names of the published runs, with one line each."""
    from viewfold.jobs.recipe_names import recipe_lines

    for name, line in sorted(recipe_lines().items()):
        typer.echo(f"{name:24} {line}")


@recipe_app.command("show")
def recipe_show(recipe: Recipe, overrides: Overrides = None) -> None:
    """A run as YAML: every setting that it resolves to."""
    from viewfold.config import to_yaml
    from viewfold.jobs.recipes import find

    typer.echo(to_yaml(find(recipe, overrides or [])), nl=False)


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(metavar="methods|backbones|policies")],
    sheets: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of policies: draw each one on shipped images into this folder."),
    ] = None,
) -> None:
    """Names that a configuration may use."""
    from viewfold.jobs.names import hint, listing, sheets_of

    typer.echo(listing(what) if sheets is None else sheets_of(what, sheets))
    if sheets is None and (more := hint(what)):
        typer.echo(more, err=True)


if __name__ == "__main__":
    main()
