"""Every error that viewfold raises on purpose.

ViewfoldError
  InvalidInput  (ValueError)    a file, option, recipe or request cannot be used: says what, where and what to do
    ShardError                  a shard, or a sample in it, cannot be read; has .shard and .key
    ArtifactMismatch            two artifacts that were not made for each other were put together
  TrainingStopped               a run was stopped for its own good (nan, collapse, too many bad samples)
  MissingDependency             an optional package is not installed; names the extra that brings it

The command line prints the message as one line and exits with 2; nobody who uses the tool sees a traceback for these.
"""


class ViewfoldError(Exception):
    """Base of every error that viewfold raises on purpose."""


class InvalidInput(ViewfoldError, ValueError):
    """Something that a user gave cannot be used. The message says what, where, and what to do."""


class ShardError(InvalidInput):
    """A shard, or one sample in it, cannot be read."""

    def __init__(self, shard: str, reason: str, key: str | None = None) -> None:
        """`reason` ends the sentence that `shard` and `key` begin, so it needs no subject."""
        super().__init__(f"{shard}: {key}: {reason}" if key is not None else f"{shard}: {reason}")
        self.shard = shard
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str, str | None]]:
        """Errors cross process borders, and the default would hand the whole message to `shard`."""
        return type(self), (self.shard, self.reason, self.key)


class ArtifactMismatch(InvalidInput):
    """An artifact was loaded beside one that it was not made with; the message names both."""


class TrainingStopped(ViewfoldError):
    """A run was stopped for its own good; the message names the step and the terms."""


class MissingDependency(ViewfoldError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def printable(text: str) -> str:
    """`text` for a terminal: what would act on it (control and format characters, line ends, surrogates) is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
