"""`python -m docs.generator` writes the generated pages; tests/test_docs_reference.py holds that they are fresh."""

from docs.generator import configuration, http, names, verbs
from docs.generator.source import ROOT, Package


def pages(package: Package) -> dict[str, str]:
    """The text of each generated page, by its path under docs/."""
    return {
        "reference/command-line.md": verbs.page(),
        "reference/configuration.md": configuration.page(package),
        "reference/http.md": http.page(),
        "reference/python.md": names.page(package),
    }


if __name__ == "__main__":
    for path, text in pages(Package()).items():
        (ROOT / "docs" / path).write_text(text, encoding="utf-8")
