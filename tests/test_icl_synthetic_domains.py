"""Contrast across domains on made-up ones: demonstrations for a domain that no training saw get better, by much.

Six classes in four domains of twenty samples each. A domain moves all its samples by one vector of a plane that the
domains share, far enough that a sample's nearest are those that were moved alike, not those of its class.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pools import pool

from viewfold.keyed import generator
from viewfold.retrieval import FeatureSet, Query, SelectConfig, build_bundle, select
from viewfold.retrieval.icl import Choices, Coded, Pool, demo_measures, domain_gap
from viewfold.ssl.adapter import Adapter, AdapterConfig
from viewfold.ssl.losses import cci_loss, class_pairs
from viewfold.ssl.methods import CCI_PRESETS

CLASSES, DOMAINS, PER_CELL, DIM, DRAWS = 6, 4, 20, 24, 5
HELD_OUT = DOMAINS - 1
LABEL = np.repeat(np.arange(CLASSES), DOMAINS * PER_CELL)
DOMAIN = np.tile(np.repeat(np.arange(DOMAINS), PER_CELL), CLASSES)
SOURCE = DOMAIN != HELD_OUT


def drawn(number: int) -> NDArray[np.float32]:
    """`[sample, dim]` of one draw."""
    rng = generator("synthetic domains", number)
    centres = 2 * rng.normal(size=(CLASSES, DIM)) / np.sqrt(DIM)
    plane = np.linalg.qr(rng.normal(size=(DIM, 2)))[0]
    moves = 4 * rng.normal(size=(DOMAINS, 2)) @ plane.T
    vectors: NDArray[np.float32] = (centres[LABEL] + moves[DOMAIN] + 0.6 * rng.normal(size=(len(LABEL), DIM))).astype(
        np.float32
    )
    return vectors


def adapted(vectors: NDArray[np.float32], preset: str) -> NDArray[np.float32]:
    """The vectors after a linear map that the preset's contrastive loss found on the source domains."""
    config = CCI_PRESETS[preset]
    given = torch.from_numpy(vectors)
    label, domain, group = (torch.from_numpy(x[SOURCE]) for x in (LABEL, DOMAIN, np.full(len(LABEL), -1)))
    pairs = class_pairs(label, domain, group, positives=config.positives)
    adapter = Adapter(AdapterConfig(kind="linear"), DIM)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        loss = cci_loss(adapter(given[SOURCE]), pairs, form=config.form, tau=config.tau, eps=config.eps)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    result: NDArray[np.float32] = adapter(given).detach().numpy()
    return result


def precision_at_7(vectors: NDArray[np.float32], folder: Path) -> float:
    """Of the held-out domain's samples among the source domains', by index and selection."""
    names: dict[str, Any] = {"label": [f"class-{n}" for n in LABEL], "domain": [f"domain-{n}" for n in DOMAIN]}
    features: FeatureSet = pool(vectors, **names)
    bundle = build_bundle(features.take(np.flatnonzero(SOURCE)), folder)
    asked = np.flatnonzero(~SOURCE)
    queries = [Query(id=features.keys[row], vector=vectors[row]) for row in asked]
    chosen = Choices.of(bundle, select(bundle, queries, SelectConfig(k=7)), 7)
    known = Pool(Coded.of(bundle.column("label")), Coded.of(bundle.column("domain")), vectors[SOURCE])
    measures = demo_measures(chosen, known, [names["label"][row] for row in asked], vote_tau=0.1)
    return float(measures["precision"].mean())


def gap(vectors: NDArray[np.float32]) -> float:
    found = domain_gap(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), LABEL, DOMAIN)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(CCI_PRESETS))
def test_contrast_across_domains_finds_the_class_in_a_domain_that_it_never_saw(preset: str, tmp_path: Path) -> None:
    raw = [drawn(number) for number in range(DRAWS)]
    mapped = [adapted(vectors, preset) for vectors in raw]
    before, after = (
        np.mean([precision_at_7(vectors, tmp_path / f"{kind}-{n}") for n, vectors in enumerate(several)])
        for kind, several in (("raw", raw), ("adapted", mapped))
    )
    assert 0.4 < before < 0.65
    assert after - before >= 0.15
    assert np.mean([gap(vectors) for vectors in raw]) >= 5 * np.mean([gap(vectors) for vectors in mapped])
