"""What a server refuses, in one line that says what to do about it."""

import re
from collections.abc import Sequence

from viewfold.errors import InvalidInput, printable

_MAX_WORDS = 300
_TOO_MANY_IMAGES = re.compile(r"at most (\d+) (?:image|'image')", re.IGNORECASE)


def refusal(
    status: int, words: str, *, server: str, model: str, num_images: int, advice: str, served: Sequence[str]
) -> InvalidInput:
    """The error for an HTTP `status`; `words` are the server's own, of which a long text shows its beginning.

    `server` is its address, `num_images` that of the prompt, `advice` what to do about a refused key, `served` the
    models that the server says it has.
    """
    limit = _TOO_MANY_IMAGES.search(words)
    words = words if len(words) <= _MAX_WORDS else words[:_MAX_WORDS] + "..."
    if status in {401, 403}:  # without the server's words: some repeat the key
        return InvalidInput(f"{server}: the server refuses the API key ({status}); {advice}")
    if status == 404:
        there = (
            f"it serves {', '.join(map(printable, served))}"
            if served
            else "it names none; is this the address of its API?"
        )
        return InvalidInput(f"{server}: no model {model!r} there (404: {words}); {there}")
    if status == 400 and limit:
        return InvalidInput(
            f"{server}: takes at most {limit[1]} images in a prompt, this one has {num_images}; start vLLM with "
            f"--limit-mm-per-prompt '{{\"image\": {num_images}}}', or ask for fewer demonstrations"
        )
    if status == 429 or status >= 500:
        return InvalidInput(f"{server}: the server is busy or broken ({status}: {words}); try again later")
    return InvalidInput(f"{server}: the server refuses the request ({status}: {words})")


def server_words(body: object) -> str:
    """All that an error's body says, on one line that a terminal can show."""
    if isinstance(body, dict):
        body = next((body[key] for key in ("message", "detail", "error") if body.get(key)), body)
    return printable(" ".join(str(body or "no reason given").split()))
