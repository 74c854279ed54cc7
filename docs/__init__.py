"""The pages of the documentation; `docs.generator` writes those that say what the source says."""
