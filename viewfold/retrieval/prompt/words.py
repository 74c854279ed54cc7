"""What a class is called in a prompt, and when two names are the same name."""

import re
import unicodedata
from collections.abc import Sequence

from viewfold.config import unknown
from viewfold.errors import InvalidInput
from viewfold.retrieval.prompt.spec import PromptSpec

MAX_NAME = 80
"""Characters of a name that are shown."""

# Chat templates mark turns and images by <|im_end|>, <image>, [INST]; and an answer is looked for between braces.
_BRACKETS = str.maketrans("<>[]{}", "()()()")


def shown_words(spec: PromptSpec, classes: Sequence[str]) -> dict[str, str]:
    """For each class the words that stand for it, in the order of `classes`; no two have one normal form.

    Names come from the metadata of images, which anyone may have written, so they are made harmless: one line, without
    control characters or the brackets that chat templates act on, of `MAX_NAME` characters at most. Names that are
    then the same get a number.

    Raises:
        InvalidInput: no classes, one twice, or `spec.labels` names one that is not there.
    """
    if not classes or len(set(classes)) < len(classes):
        raise InvalidInput(f"{len(classes)} classes, {len(set(classes))} of them different: give each class once")
    for label in spec.labels:
        if label not in classes:
            raise unknown("class in labels", label, classes)
    words: dict[str, str] = {}
    taken: set[str] = set()
    for label in classes:
        words[label] = _distinct(_harmless(spec.labels.get(label, label)), taken)
        taken.add(normal_form(words[label]))
    return words


def normal_form(text: str) -> str:
    """`text` without what does not tell names apart: case, compatibility forms, `_`, hyphens and runs of spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s_\-\u2010-\u2015]+", " ", folded).strip()


def _harmless(name: str) -> str:
    # Categories C and Z: control, format (bidirectional overrides, zero width), surrogates, every separator.
    plain = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in name)
    line = " ".join(plain.translate(_BRACKETS).split())
    return line if len(line) <= MAX_NAME else line[: MAX_NAME - 3].rstrip() + "..."


def _distinct(name: str, taken: set[str]) -> str:
    base = name if normal_form(name) else "unnamed"
    candidate, number = base, 1
    while normal_form(candidate) in taken:
        number += 1
        candidate = f"{base} ({number})"
    return candidate
