"""Lines of Markdown."""

import textwrap


def wrapped(text: str, indent: str = "") -> str:
    """One paragraph in lines of at most 118 characters, and the end of its last line."""
    lines = textwrap.wrap(text, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"
