"""What a prompt says, apart from its images and their labels."""

from dataclasses import dataclass, field
from typing import Literal

from viewfold.config import Config


@dataclass(frozen=True, kw_only=True)
class PromptSpec(Config):
    """The words and the layout of a prompt."""

    layout: Literal["multiturn", "interleaved"] = "multiturn"
    """`multiturn`: each demonstration is a turn of the user and the assistant's answer, so that no chat template can
    part an image from its label. `interleaved`: one turn of the user, for models that see images in their last turn
    only."""
    task: str = "Look at the image and name the class it belongs to."
    """First sentence of the system turn."""
    question: str = "Which class does this image belong to?"
    """What is asked about the query, and in `multiturn` about each demonstration."""
    labels: dict[str, str] = field(default_factory=dict)
    """Words to show in place of a label, such as `mel: melanoma`; a label that is not named here is shown as it is."""
    rationale: bool = False
    """Ask for a sentence of explanation after the answer."""

    def __post_init__(self) -> None:
        for name in ("task", "question"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} must say something, got {getattr(self, name)!r}")
