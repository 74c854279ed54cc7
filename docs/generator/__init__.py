"""Pages under docs/reference/ that say what the source says: `python -m docs.generator` writes them anew."""
