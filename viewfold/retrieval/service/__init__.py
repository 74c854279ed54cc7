"""Retrieval over HTTP: one application over a `Backend`, in one process or on a cluster."""
