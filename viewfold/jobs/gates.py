"""Whether a new version may become the champion: measured against floors and, on the same queries, against that one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from viewfold.errors import InvalidInput, ShardError
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.gates_config import GateConfig, GatesConfig, RankGateConfig
from viewfold.jobs.gates_data import RunData, unseen
from viewfold.jobs.gates_measure import MEASURES, Seer, measured
from viewfold.jobs.gates_rules import Facts, Found, Missing, encoder_row, latency_row, recall_row
from viewfold.jobs.gates_verdict import GateRow, Verdict
from viewfold.jobs.registry import Registry, VersionFacts
from viewfold.jobs.version_index import index_facts
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stage import write_whole
from viewfold.ssl.encoder import Encoder, load_encoder

REPORT = "gates.json"
QUERIES, REMEMBERED = "queries", "remembered"
NOTHING_ASKED = "its run holds no data back to ask about; give it `validation`, or `held_out` domains"


def judge(
    registry: Registry,
    config: GatesConfig,
    *,
    challenger: VersionFacts,
    champion: VersionFacts | None,
    home: Path,
    out: Path,
) -> Verdict:
    """`weigh`, and what it finds among the challenger's tags: `validation_status` and `validation`."""
    verdict = weigh(registry, config, challenger=challenger, champion=champion, home=home, out=out)
    tags = {"validation_status": "passed" if verdict.passed else "failed", "validation": verdict.reason}
    registry.tag(challenger.name, challenger.version, tags)
    return verdict


def weigh(
    registry: Registry,
    config: GatesConfig,
    *,
    challenger: VersionFacts,
    champion: VersionFacts | None,
    home: Path,
    out: Path,
) -> Verdict:
    """Hold `challenger` against its gates and against `champion`, if there is one; writes `out/gates.json`.

    Both are measured on what the challenger's run holds back, and on what the champion's run held back, where that is
    something else: what was learned once is not to be forgotten. Neighbours and heads are from each one's own
    training data. `home` is that of the registry.

    Raises:
        InvalidInput: the run folder or the encoder of the challenger is gone, or its images cannot be read.
    """
    both = _Contest(registry, config, challenger, champion, home)
    verdict = Verdict.of([*both.encoder_rows(), *both.index_rows()], both.notes)
    about = {
        "model": challenger.name,
        "challenger": challenger.version,
        "champion": None if champion is None else champion.version,
    }
    text = json.dumps({**about, **verdict.to_dict()}, indent=2, allow_nan=False) + "\n"
    write_whole(out / REPORT, lambda file: file.write(text.encode()))
    return verdict


@dataclass(frozen=True)
class _Contest:
    registry: Registry
    config: GatesConfig
    challenger: VersionFacts
    champion: VersionFacts | None
    home: Path
    notes: list[str] = field(default_factory=list)

    def encoder_rows(self) -> list[GateRow]:
        """Rows of the gates that ask something of the encoder."""
        gates = self._wanted(floors=True)
        if not gates:
            return []
        own = RunData.of(self.challenger, self.home)
        if own.asked is None:
            nothing = dict.fromkeys(gates, Missing(NOTHING_ASKED))
            return _rows(QUERIES, gates, nothing, None, floor=True)
        new = _seen(self._encoder(self.challenger), own.train)
        old, held = self._champion(own)
        rows = self._compared(QUERIES, gates, own.asked, new, old, own.evaluate)
        if held is not None and held.hash != own.asked.hash:
            rows += self._remembered(held, own, new, old)
        return rows

    def _encoder(self, version: VersionFacts) -> Encoder:
        return load_encoder(self.registry.resolve(f"models:/{version.name}/{version.version}").encoder)

    def _wanted(self, *, floors: bool) -> dict[str, GateConfig | RankGateConfig]:
        """The encoder's gates that ask for anything; without `floors`, those that compare."""
        found = {gate: getattr(self.config, gate) for gate in MEASURES}
        return {
            gate: one
            for gate, one in found.items()
            if one is not None
            and ((floors and one.at_least is not None) or (self.champion is not None and one.may_fall is not None))
        }

    def _champion(self, own: RunData) -> tuple[Seer | Missing | None, ShardManifest | None]:
        """The champion as it sees its own training data, and what its run held back."""
        if self.champion is None or not self._wanted(floors=False):
            return None, None
        encoder = self._encoder(self.champion)
        try:
            data = RunData.of(self.champion, self.home)
            return _seen(encoder, data.train), data.asked
        except (InvalidInput, OSError) as error:  # it was registered by an older program, or its shards are gone
            self.notes.append(
                f"the champion's own data cannot be read ({error}): its neighbours and heads are from the "
                "challenger's, and what it was asked about is not asked again"
            )
            return _seen(encoder, own.train), None

    def _compared(
        self,
        queries: str,
        gates: Mapping[str, GateConfig | RankGateConfig],
        asked: ShardManifest,
        new: Seer | Missing,
        old: Seer | Missing | None,
        evaluate: EvaluateConfig,
    ) -> list[GateRow]:
        def found(one: Seer | Missing) -> dict[str, Found]:
            if isinstance(one, Missing):
                return dict.fromkeys(gates, one)
            k, images = self.config.precision_k, self.config.shift_images
            return measured(one, asked, gates, evaluate, precision_k=k, shift_images=images)

        theirs = None if old is None else found(old)
        return _rows(queries, gates, found(new), theirs, floor=queries == QUERIES)

    def _remembered(
        self, held: ShardManifest, own: RunData, new: Seer | Missing, old: Seer | Missing | None
    ) -> list[GateRow]:
        """What the champion was asked about, once more, without what the challenger has been trained on since."""
        rows = unseen(held, own.train)
        if len(rows) < len(held):
            self.notes.append(
                f"{len(held) - len(rows)} of {len(held)} samples that the champion was asked about are among the "
                "challenger's training data, and are not asked again"
            )
        if not len(rows):
            return []
        asked = held if len(rows) == len(held) else held.take(rows)
        try:
            return self._compared(REMEMBERED, self._wanted(floors=False), asked, new, old, own.evaluate)
        except (ShardError, OSError) as error:
            self.notes.append(f"what the champion was asked about cannot be read ({error}) and is not asked again")
            return []

    def index_rows(self) -> list[GateRow]:
        """Rows of the gates of the index."""
        own, other = _facts(self.challenger), None if self.champion is None else _facts(self.champion)
        recall, latency = self.config.bundle_recall, self.config.bundle_latency_ms
        rows = [
            *([recall_row(recall, own, other)] if recall is not None else []),
            *([latency_row(latency, own, other)] if latency is not None else []),
        ]
        return [row for row in rows if row.limit]


def _rows(
    queries: str,
    gates: Mapping[str, GateConfig | RankGateConfig],
    challenger: Mapping[str, Found],
    champion: Mapping[str, Found] | None,
    *,
    floor: bool,
) -> list[GateRow]:
    return [
        encoder_row(
            gate,
            queries,
            config,
            challenger=challenger[gate],
            champion=None if champion is None else champion[gate],
            floor=floor,
        )
        for gate, config in gates.items()
    ]


def _seen(encoder: Encoder, train: ShardManifest) -> Seer | Missing:
    """Missing where the encoder diverged, which is a reason to refuse it and not to stop."""
    try:
        return Seer.of(encoder, train)
    except ShardError:
        raise
    except InvalidInput as reason:
        return Missing(str(reason), broken=True)


def _facts(version: VersionFacts) -> Facts:
    """The facts of a version's index."""
    if "bundle" not in version.tags:
        return Missing("registered without an index")
    try:
        return index_facts(version)
    except InvalidInput as reason:  # a version that cannot be served is no champion
        return Missing(str(reason), broken=True)
