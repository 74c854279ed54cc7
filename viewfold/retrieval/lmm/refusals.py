"""What a server refuses, in one line that says what to do about it."""

import re
from collections.abc import Sequence

from viewfold.errors import InvalidInput

_MAX_WORDS = 300
_TOO_MANY_IMAGES = re.compile(r"at most (\d+) (?:image|'image')", re.IGNORECASE)


def refusal(
    status: int, body: object, *, server: str, model: str, num_images: int, advice: str, served: Sequence[str]
) -> InvalidInput:
    """The error for an HTTP `status` whose decoded `body` says why.

    `server` is its address, `num_images` that of the prompt, `advice` what to do about a refused key, `served` the
    models that the server says it has.
    """
    words = server_words(body)
    if status in {401, 403}:  # without the server's words: some repeat the key
        return InvalidInput(f"{server}: the server refuses the API key ({status}); {advice}")
    if status == 404:
        there = f"it serves {', '.join(served)}" if served else "it names none; is this the address of its API?"
        return InvalidInput(f"{server}: no model {model!r} there (404: {words}); {there}")
    if status == 400 and (limit := _TOO_MANY_IMAGES.search(words)):
        return InvalidInput(
            f"{server}: takes at most {limit[1]} images in a prompt, this one has {num_images}; start vLLM with "
            f"--limit-mm-per-prompt '{{\"image\": {num_images}}}', or ask for fewer demonstrations"
        )
    if status == 429 or status >= 500:
        return InvalidInput(f"{server}: the server is busy or broken ({status}: {words}); try again later")
    return InvalidInput(f"{server}: the server refuses the request ({status}: {words})")


def server_words(body: object) -> str:
    """What an error's body says, on one line."""
    if isinstance(body, dict):
        body = next((body[key] for key in ("message", "detail", "error") if body.get(key)), body)
    line = " ".join(str(body or "no reason given").split())
    return line if len(line) <= _MAX_WORDS else line[:_MAX_WORDS] + "..."
