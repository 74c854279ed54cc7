"""Many views of one thing, folded into one representation."""

__version__ = "0.1.0"
