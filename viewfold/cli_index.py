"""The verbs `viewfold index`: a recipe up to its bundle, or one built, changed, measured and looked at by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

STAGE = "recipe"


class RecipeOrVerb(TyperGroup):
    """A group whose first word is a verb of its own, or else the recipe of its verb `recipe`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """`viewfold index emoji` is `viewfold index recipe emoji`."""
        known = not args or args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else [STAGE, *args])

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Options before the recipe, such as `-o FOLDER`, are the recipe's too."""
        helped = args and args[0] in ("-h", "--help")
        return super().parse_args(ctx, args if not args or helped or not args[0].startswith("-") else [STAGE, *args])


index_app = typer.Typer(
    cls=RecipeOrVerb,
    help="A recipe up to its index bundle; or build, change, measure and look at one: docs/indexes.md.",
    no_args_is_help=True,
    subcommand_metavar="RECIPE|FILE.yaml [KEY=VALUE]... | COMMAND [ARGS]...",
)

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="An index bundle.")]
Features = Annotated[Path, typer.Argument(metavar="FEATURES", help="A feature set, such as runs/X/embed/adapted.")]
Base = Annotated[
    Path | None, typer.Option(metavar="FEATURES", help="The same images as the encoder before adaptation sees them.")
]
Cap = Annotated[str, typer.Option(metavar="2GiB", help="What no process of the build may exceed; default no limit.")]


def wire_stage(run_stage: Callable[[str, list[str] | None, Path | None], object]) -> None:
    """Make `viewfold index RECIPE [KEY=VALUE]...` call `run_stage(recipe, overrides, out)`."""

    @index_app.command(STAGE)
    def recipe(
        name: Annotated[str, typer.Argument(metavar="RECIPE|FILE.yaml", help="A recipe, or a file.")],
        overrides: Annotated[
            list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
        ] = None,
        out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default runs/NAME.")] = None,
    ) -> None:
        """A recipe up to its index bundle; the word `recipe` may be left out."""
        run_stage(name, overrides, out)


@index_app.command("build")
def index_build(
    features: Features,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The bundle to make.")],
    factory: Annotated[str, typer.Option(help="A FAISS factory string; auto picks one.")] = "auto",
    recall_target: Annotated[float, typer.Option(help="Share of the exact ten nearest to find.")] = 0.95,
    memory_cap: Cap = "",
    base: Base = None,
    ray: Annotated[bool, typer.Option("--ray", help="Fill shards of inverted lists by Ray tasks.")] = False,
) -> None:
    """A feature set to an index bundle, under a memory cap; a build that was killed goes on."""
    from viewfold.jobs.index_verbs import build

    typer.echo(
        build(features, out, factory=factory, recall_target=recall_target, memory_cap=memory_cap, base=base, ray=ray)
    )


@index_app.command("add")
def index_add(bundle: Bundle, features: Features, base: Base = None) -> None:
    """Add the images of a feature set."""
    from viewfold.jobs.index_verbs import add

    typer.echo(add(bundle, features, base=base))


@index_app.command("remove")
def index_remove(
    bundle: Bundle,
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEYS]...", help="Images to remove.")] = None,
    keys_file: Annotated[Path | None, typer.Option(help="A file with one key a line.")] = None,
) -> None:
    """Remove images: no search returns them any more."""
    from viewfold.jobs.index_verbs import remove

    typer.echo(remove(bundle, keys or [], keys_file=keys_file))


@index_app.command("compact")
def index_compact(
    bundle: Bundle,
    factory: Annotated[str, typer.Option(help="Another FAISS factory string; default that of the bundle.")] = "",
    memory_cap: Cap = "",
) -> None:
    """Build the bundle again without what was removed."""
    from viewfold.jobs.index_verbs import compact

    typer.echo(compact(bundle, factory=factory, memory_cap=memory_cap))


@index_app.command("score")
def index_score(bundle: Bundle, features: Features) -> None:
    """Recall and latency on new images, and precision where they have labels."""
    from viewfold.jobs.index_verbs import score

    typer.echo(score(bundle, features))


@index_app.command("calibrate")
def index_calibrate(
    bundle: Bundle,
    kind: Annotated[
        Literal["isotonic", "logistic"], typer.Option(help="Any rising curve, or a logistic one for few images.")
    ] = "isotonic",
) -> None:
    """Learn from the bundle's own domains how probable a match is at each cosine, for abstain.min_p_match."""
    from viewfold.jobs.index_verbs import calibrate

    typer.echo(calibrate(bundle, kind=kind))


@index_app.command("inspect")
def index_inspect(
    bundle: Bundle, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Lineage, index, recall, latency, size, domains, labels, what was removed."""
    from viewfold.jobs.index_verbs import inspect_bundle

    typer.echo(inspect_bundle(bundle, as_json=as_json))


@index_app.command("export-embeddings")
def index_export(
    source: Annotated[Path, typer.Argument(metavar="BUNDLE|FEATURES")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder: img_emb/ and metadata/.")],
) -> None:
    """Embeddings for autofaiss and clip-retrieval."""
    from viewfold.jobs.index_verbs import export_to

    typer.echo(export_to(source, out))


@index_app.command("import-embeddings")
def index_import(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Holds img_emb/ and metadata/.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The feature set to make.")],
    encoder_id: Annotated[str, typer.Option(metavar="NAME", help="What made the embeddings.")],
) -> None:
    """Embeddings of clip-retrieval to a feature set."""
    from viewfold.jobs.index_verbs import import_from

    typer.echo(import_from(source, out, encoder_id=encoder_id))
