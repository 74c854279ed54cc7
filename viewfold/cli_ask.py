"""The verb `ask`: demonstrations for one image, and a multimodal model's answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viewfold.errors import InvalidInput

if TYPE_CHECKING:
    from viewfold.jobs.ask import AskConfig


def ask(  # noqa: PLR0913 - each is one word of a command line, and none is passed on: they become one configuration
    image: Annotated[Path, typer.Argument(help="The image to ask about.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings of select, prompt and lmm, such as select.order=nearest_first lmm.max_tokens=50.",
        ),
    ] = None,
    *,
    k: Annotated[int, typer.Option("-k", min=0, help="How many demonstrations; 0 asks a model without any.")] = 7,
    source: Annotated[
        str, typer.Option("--from", help="A run folder with an index, a bundle, or models:/name@champion.")
    ] = "models:/viewfold-demo@champion",
    encoder: Annotated[
        str | None, typer.Option(help="The encoder of a bundle that lies in no run folder: as for `evaluate`.")
    ] = None,
    home: Annotated[Path, typer.Option(help="Folder of the local registry (mlflow.db).")] = Path("runs"),
    group: Annotated[
        str | None, typer.Option(help="Whose image it is (patient, object): none of the same is shown.")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="KEY=VALUE", help="Which images may be shown: domains=[noto]. Repeatable."),
    ] = None,
    lmm: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server; `vote` counts labels instead.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name on that server.")] = None,
    layout: Annotated[str | None, typer.Option(metavar="multiturn|interleaved", help="Layout of the prompt.")] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Words to show for labels, a line `label: words` each.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What the prompt may take: max_images=4, max_bytes=1e6. Repeatable."),
    ] = None,
    shards: Annotated[
        list[str] | None, typer.Option(help="Where the index's images lie, if they were moved. Repeatable.")
    ] = None,
    show_prompt: Annotated[bool, typer.Option("--show-prompt", help="Print what the model is sent.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Also draw query and demonstrations as this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --show-prompt the messages whole.")] = False,
) -> None:
    """Demonstrations for one image, from an index and the encoder that made it; with --lmm, a model's answer too."""
    import json

    from viewfold.jobs import ask as asking
    from viewfold.jobs.ask_pair import open_pair
    from viewfold.jobs.ask_show import draw_sheet

    words = [
        *(f"select.filters.{setting}" for setting in filters or []),
        *(f"prompt.budget.{setting}" for setting in budget or []),
        *(settings or []),
    ]
    config = _config(words, k=k, layout=layout, labels=labels, lmm=lmm, model=model)
    wants_prompt = show_prompt or config.lmm is not None
    if not wants_prompt and (layout or labels or budget or shards):
        raise InvalidInput(
            "--layout, --labels, --budget and --shards have no effect without --lmm URL or --show-prompt"
        )
    asking.read_query(image)
    pair = open_pair(source, home, encoder=encoder)
    found = asking.ask(image, config, pair, group=group, shards=shards or None, with_prompt=wants_prompt)
    if sheet is not None:
        draw_sheet(found.image, found.chosen, pair.bundle, sheet)
    typer.echo(
        json.dumps(found.to_dict(show_prompt=show_prompt), indent=2) if as_json else found.text(show_prompt=show_prompt)
    )


def _config(
    words: Sequence[str], *, k: int, layout: str | None, labels: Path | None, lmm: str | None, model: str | None
) -> "AskConfig":
    """The settings in `words` over what the options say."""
    from viewfold.jobs.ask import read_labels, read_settings

    spec: dict[str, Any] = {"layout": layout} if layout else {}
    spec |= {"labels": read_labels(labels)} if labels else {}
    asks = lmm or any(word.startswith(("lmm=", "lmm.url=")) for word in words)
    if model and not asks:
        raise InvalidInput("--model has no effect without --lmm URL, the server that holds it")
    server = {"lmm": {name: value for name, value in (("url", lmm), ("model", model)) if value}} if asks else {}
    return read_settings({"select": {"k": k}, "prompt": {"spec": spec}, **server}, words)
