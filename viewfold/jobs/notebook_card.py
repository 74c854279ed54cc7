"""An encoder's card in a notebook: measured in this process, kept in a folder, shown as a table."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viewfold.errors import printable
from viewfold.jobs.card_sets import evaluation_sets
from viewfold.jobs.card_text import summary
from viewfold.jobs.evaluate import PAGE, Candidate, evaluate_encoders
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.ssl.encoder import Encoder


@dataclass(frozen=True)
class Card:
    """What was measured of an encoder.

    >>> measure = {"name": "invariant/knn5/top1", "value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.25}
    >>> card = vf.Card(Path("card/card.html"), {"measures": {"trained": [measure]}, "skipped": []})
    >>> "0.500 [0.400, 0.600]" in str(card)
    True
    """

    page: Path
    """The page with plots and words, as one HTML file; `card.json` lies beside it."""
    data: dict[str, Any] = field(repr=False)
    """What `card.json` holds."""

    def __str__(self) -> str:
        """The measures as a table of text, beside those of an untrained network and chance."""
        return "\n".join(map(printable, summary(self.data).splitlines()))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre><p>{html.escape(printable(str(self.page)))}</p>"


def evaluate(
    encoder: Encoder | str | Path,
    shards: str | Sequence[str],
    *,
    train: str | Sequence[str] = (),
    config: EvaluateConfig | None = None,
    out: str | Path,
) -> Card:
    """Measure an encoder on labelled `shards` beside an untrained one; writes `card.json` and `card.html` into `out`.

    A folder brings the equivariant head that was kept in it, which is measured too. Heads are fitted on `train`, or
    else on one half of `shards`, whose other half is asked; no group lies in both. Nothing is logged anywhere.

    >>> quick = vf.EvaluateConfig(k=1, curve_images=0)
    >>> card = vf.evaluate("runs/mine/pretrain/encoder", "shards", config=quick, out="card")
    >>> card.page.name, sorted(card.data["measures"])
    ('card.html', ['trained', 'untrained'])

    Raises:
        InvalidInput: no encoder or no shards there, or features that are not finite.
    """
    config = config or EvaluateConfig()
    candidate = Candidate(encoder) if isinstance(encoder, Encoder) else Candidate.load(Path(encoder))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with evaluation_sets(shards, train, config.seed) as (known, asked):
        both = {"trained": candidate, "untrained": candidate.untrained()}
        data = evaluate_encoders(both, train=known, val=asked, config=config, out=out)
    return Card(out / PAGE, data)
