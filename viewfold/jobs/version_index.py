"""The index of a registered version, which lies in a run folder and not in the registry: is it still its own?"""

import json
from pathlib import Path
from typing import Any

from viewfold.errors import InvalidInput
from viewfold.jobs.registry import VersionFacts


def index_facts(version: VersionFacts) -> dict[str, Any]:
    """The `bundle.json` of a version that has the tag `bundle`.

    Raises:
        InvalidInput: it is not there, or a later run in the same folder has put another encoder's index in its place.
    """
    bundle = Path(version.tags["bundle"])
    try:
        facts: dict[str, Any] = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    except OSError:
        raise InvalidInput(f"its index {bundle} is not there") from None
    except ValueError as error:
        raise InvalidInput(f"its index {bundle} is damaged ({error})") from None
    if facts.get("encoder_id") != version.tags.get("encoder_id", facts.get("encoder_id")):
        raise InvalidInput(f"its index {bundle} was built anew with another encoder")
    return facts
