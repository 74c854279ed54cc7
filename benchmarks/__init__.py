"""Measurements beside other libraries: `make bench` keeps the records in `results/` and renders docs/benchmarks.md."""

SUITES = ("decode", "stream", "augment", "losses", "mining", "retrieval", "serve", "endtoend", "simulate", "scale")
"""What `make bench` runs, in this order; `scale` comes last, since it reads the records of the others."""
LONG = ("objects3d",)
"""Suites that train for hours: `make bench` runs one of them only when it is named."""
