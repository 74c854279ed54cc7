"""What a sample's JSON says about it: label, domain, group, and the recorded latents of its stored images."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class About:
    """The fields of a sample's JSON that viewfold reads; others (names, credits) are left alone."""

    label: str | None = None
    domain: str | None = None
    group: str | None = None
    latents: NDArray[np.float32] | None = None
    """`[image, latent]`: the parameters with which each stored image was made."""


def parse_about(data: bytes, *, num_images: int) -> About:
    """Read a sample's JSON.

    Raises:
        InvalidInput: not a JSON object, a name that is no text or number, latents that do not fit the images. The
            message is a reason, without the sample's name.
    """
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise InvalidInput(f"its JSON cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidInput(f"its JSON holds a {type(fields).__name__}, expected an object with label, domain, group")
    return About(
        label=_name(fields, "label"),
        domain=_name(fields, "domain"),
        group=_name(fields, "group"),
        latents=_latents(fields.get("latents"), num_images),
    )


def _name(fields: dict[str, Any], field: str) -> str | None:
    value = fields.get(field)
    if value is None or (isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""):
        return None if value is None else str(value)
    raise InvalidInput(f"its {field} is {json.dumps(value)[:40]}, expected a name or a whole number")


def _latents(value: Any, num_images: int) -> NDArray[np.float32] | None:
    if value is None:
        return None
    try:
        latents = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise InvalidInput("its latents are not rows of numbers, equally many in each") from None
    if latents.ndim != 2 or len(latents) != num_images or latents.shape[1] == 0:
        raise InvalidInput(
            f"its latents have shape {list(latents.shape)}, expected a row for each of {num_images} images"
        )
    if not np.isfinite(latents).all():
        raise InvalidInput("its latents hold a number that is not finite")
    return latents
