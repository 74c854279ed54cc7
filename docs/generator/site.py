"""What MkDocs does to the pages beyond Markdown, so that they read alike in the repository and as a site."""

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>\.\./[^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, /, *, page: Any, config: Any, **_: Any) -> str:
    """A link to a file of the repository that is no page, such as ../NOTICE, becomes that file's name."""
    folder = Path(config.docs_dir, page.file.src_uri).parent

    def named(link: re.Match[str]) -> str:
        target = (folder / link["target"]).resolve()
        if target.is_relative_to(config.docs_dir):
            return link[0]
        name = target.relative_to(Path(config.docs_dir).parent).as_posix()
        return link["text"] if name in link["text"] else f"{link['text']} (`{name}`)"

    return _LINK.sub(named, markdown)
