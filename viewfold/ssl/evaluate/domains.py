"""What a classifier loses on a domain that it has not seen: leave-one-domain-out against the same domain."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.ssl.evaluate.accuracy import balanced_accuracy
from viewfold.ssl.evaluate.chance import most_frequent
from viewfold.ssl.evaluate.classifier import linear_classifier
from viewfold.ssl.evaluate.groups import numbered
from viewfold.ssl.evaluate.interval import bootstrap
from viewfold.ssl.evaluate.measure import Measure, Split

_L2 = 1e-2  # as in `linear_accuracy`
Numbers = NDArray[np.int64]
Hits = NDArray[np.float64]


def domain_gap(split: Split, domain: Int[Tensor, " row"], *, num_folds: int = 3, seed: int = 0) -> list[Measure]:
    """`domains/gap`, `domains/in_domain` and `domains/out_of_domain`: top-1 of linear classifiers, mean over domains.

    `domain` is -1 for none. The groups of each domain are dealt into `num_folds` folds. A fold is asked of two
    classifiers: one fitted on the other folds of its domain, one on all other domains. Neither sees a row of a group
    that is asked, both are fitted on equally many rows (the larger set is thinned at random), and both know the same
    classes: those that the domain shares with the others; rows of the rest are left out. The gap is the accuracy
    within the domain minus that outside. Chance answers with the most frequent class of the rows fitted on.

    Raises:
        InvalidInput: `num_folds` below 2, fewer than two domains with labels, or a domain that has fewer than two
            groups, shares fewer than two classes with the others, or whose groups are the only ones of the others.
    """
    if num_folds < 2:
        raise InvalidInput(f"domains: num_folds must be at least 2, got {num_folds}")
    rows, names = _usable(split, domain)
    answers = [_leave_out(rows, name, num_folds, seed) for name in names]
    within, outside, blind_within, blind_outside = np.concatenate([one.hits for one in answers], axis=1)
    asked = np.concatenate([one.rows for one in answers])
    domain_of = np.searchsorted(names, rows.domain[asked])
    detail = {
        "num_folds": num_folds,
        "l2": _L2,
        "without_label_or_domain": len(split.label) - len(rows.label),
        "domains": [one.detail for one in answers],
    }

    def measure(name: str, right: Hits, blind: Hits) -> Measure:
        interval = bootstrap(lambda weights: balanced_accuracy(right, domain_of, weights), rows.group[asked], seed=seed)
        chance = balanced_accuracy(blind, domain_of, np.ones(len(asked)))
        return Measure(name=f"domains/{name}", **interval._asdict(), chance=chance, n=len(asked), detail=detail)

    return [
        measure("gap", within - outside, blind_within - blind_outside),
        measure("in_domain", within, blind_within),
        measure("out_of_domain", outside, blind_outside),
    ]


@dataclass(frozen=True)
class _Rows:
    """The rows that have a label and a domain."""

    features: Tensor
    label: Numbers
    group: Numbers
    """Numbered from 0, a row without group having its own."""
    domain: Numbers


@dataclass(frozen=True)
class _Answers:
    """What was answered about one domain."""

    rows: Numbers
    """`[asked]`: each row of the domain that was asked, once."""
    hits: Hits
    """`[4, asked]`: right within, right outside, and the same of the most frequent class."""
    detail: dict[str, Any]


def _usable(split: Split, domain: Int[Tensor, " row"]) -> tuple[_Rows, list[int]]:
    """The rows that have a label and a domain, and the names of the domains."""
    keep = (split.label >= 0) & (domain >= 0)
    names = torch.unique(domain[keep]).tolist()
    if len(names) < 2:
        raise InvalidInput(f"domains: the labelled samples are of {len(names)} domain(s); two are needed")
    group, _ = numbered(split.group[keep].numpy())
    return _Rows(split.features[keep], split.label[keep].numpy(), group, domain[keep].numpy()), names


def _leave_out(rows: _Rows, name: int, num_folds: int, seed: int) -> _Answers:
    """The rows of domain `name`, each answered by a classifier of its own domain and by one of the others."""
    own = rows.domain == name
    shared = np.intersect1d(rows.label[own], rows.label[~own])
    if len(shared) < 2:
        raise InvalidInput(f"domains: domain {name} shares {len(shared)} class(es) with the others; two are needed")
    usable = np.isin(rows.label, shared)
    rng = generator("domain folds", seed, name)
    groups = rng.permutation(np.unique(rows.group[own & usable]))
    if len(groups) < 2:
        raise InvalidInput(f"domains: domain {name} has a single group; two are needed, to fit on and to ask")
    asked, hits, sizes = [], [], []
    for number in range(min(num_folds, len(groups))):
        in_fold = np.isin(rows.group, groups[number::num_folds])
        fitted = [np.flatnonzero(usable & ~in_fold & side) for side in (own, ~own)]
        sizes.append(min(len(side) for side in fitted))
        if not sizes[-1]:
            raise InvalidInput(f"domains: the others have only groups of domain {name}; more groups are needed")
        fitted = [np.sort(rng.permutation(side)[: sizes[-1]]) for side in fitted]
        asked.append(np.flatnonzero(usable & in_fold & own))
        hits.append(np.stack([answer(rows, side, asked[-1]) for answer in (_probe, _blind) for side in fitted]))
    right = np.concatenate(hits, axis=1)
    detail = {
        "domain": name,
        "in_domain": float(right[0].mean()),
        "out_of_domain": float(right[1].mean()),
        "num_asked": right.shape[1],
        "num_fitted": sizes,
        "num_groups": len(groups),
        "num_classes": len(shared),
        "left_out": int((own & ~usable).sum()),
    }
    return _Answers(np.concatenate(asked), right, detail)


def _probe(rows: _Rows, fitted: Numbers, asked: Numbers) -> Hits:
    """Whether the classifier fitted on some rows is right on others; a class it never saw is never right."""
    seen, new = (rows.features[torch.from_numpy(chosen)] for chosen in (fitted, asked))
    predict = linear_classifier(Split.of(seen, rows.label[fitted]), l2=_L2)
    return np.asarray(predict(new).numpy() == rows.label[asked], dtype=np.float64)


def _blind(rows: _Rows, fitted: Numbers, asked: Numbers) -> Hits:
    """Whether the most frequent class of some rows is that of others."""
    answer = most_frequent(torch.from_numpy(rows.label[fitted]), 1).item()
    return np.asarray(rows.label[asked] == answer, dtype=np.float64)
