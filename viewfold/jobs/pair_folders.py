"""Where an index and the encoder that built it lie, by what people call them. Nothing is loaded of either."""

import json
from pathlib import Path
from typing import Any

from viewfold.errors import InvalidInput
from viewfold.jobs.registry import Registry

REGISTERED = "models:/"
"""What names in the registry begin with."""
_STAGES = ("adapt", "pretrain", "start")


def pair_folders(source: str, home: Path, *, encoder: str | None = None) -> tuple[Path, Path]:
    """The bundle's folder and its encoder's; the arguments are those of `open_pair`.

    Raises:
        InvalidInput: there is no bundle, or no encoder; says where it was looked for.
    """
    try:
        bundle, found = _located(source, home)
    except OSError as error:  # a name that no file can have, a folder that may not be read
        raise InvalidInput(f"{source}: cannot be opened: {error.strerror or error}") from None
    if encoder is not None:
        from viewfold.jobs.card import find_candidate  # brings all that draws cards: seconds

        found = Path(find_candidate(encoder, home).folder)
    if found is None:
        raise InvalidInput(f"{source}: the encoder of this index does not lie in a run folder with it; name --encoder")
    return bundle, found


def encoder_beside(bundle: Path, encoder_id: str | None) -> Path | None:
    """The folder of the encoder with this id in the run folder that a bundle lies in, if it is there."""
    for stage in _STAGES:
        file = bundle.absolute().parent.parent / stage / "encoder" / "encoder.json"
        if file.is_file() and _facts(file).get("id") == encoder_id:
            return file.parent
    return None


def pinned(source: str, home: Path) -> tuple[str, str | None]:
    """`source` with the version that it names now in place of an alias, and that version; None where there is none."""
    if not source.startswith(REGISTERED):
        return source, None
    version = Registry(home).version_of(source)
    name = source.removeprefix(REGISTERED).partition("@")[0].partition("/")[0]
    return f"{REGISTERED}{name}/{version}", version


def _located(source: str, home: Path) -> tuple[Path, Path | None]:
    if source.startswith(REGISTERED):
        version = Registry(home).resolve(source)
        if "bundle" not in version.tags:
            raise InvalidInput(
                f"{source}: registered without an index; run its recipe up to `index` and register again"
            )
        return Path(version.tags["bundle"]), version.encoder
    folder = Path(source)
    if (folder / "bundle.json").is_file():
        return folder, encoder_beside(folder, _facts(folder / "bundle.json").get("encoder_id"))
    stages = [path for stage in _STAGES if (path := folder / stage / "encoder").is_dir()]
    bundle = folder / "index" / "bundle"
    if not stages or not bundle.is_dir():
        raise InvalidInput(
            f"{source}: not a run folder with an encoder and an index; `viewfold index RECIPE` makes one"
        )
    return bundle, stages[0]


def _facts(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not text
        found = None
    if not isinstance(found, dict):
        raise InvalidInput(f"{file}: damaged, not a JSON object; copy its folder again or make it again")
    return found
