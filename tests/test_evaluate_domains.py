"""The gap between domains: none where domains look alike, all of it where one is turned over, and no leak."""

import numpy as np
import pytest
import torch
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import Measure, Split, domain_gap
from viewfold.ssl.evaluate.domains import _leave_out, _usable


def rows(*, domains: int = 3, groups: int = 12, views: int = 3, spread: float = 0.3) -> tuple[Split, Tensor]:
    """Two classes, told apart by the first channel; a group has a class, and is of one domain."""
    rng = np.random.default_rng(0)
    domain = np.repeat(np.arange(domains), groups * views)
    group = np.repeat(np.arange(domains * groups), views)
    label = group % 2
    features = spread * rng.normal(size=(len(label), 4))
    features[:, 0] += 2 * label - 1
    return Split.of(features, label, group), torch.from_numpy(domain)


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.name.removeprefix("domains/"): measure for measure in measures}


def test_domains_that_look_alike_have_no_gap() -> None:
    found = by_name(domain_gap(*rows()))
    assert found["in_domain"].value > 0.95
    assert found["out_of_domain"].value > 0.95
    gap = found["gap"]
    assert gap.low is not None
    assert gap.high is not None
    assert gap.low <= 0 <= gap.high
    assert gap.value == pytest.approx(found["in_domain"].value - found["out_of_domain"].value)
    assert gap.chance == pytest.approx(found["in_domain"].chance - found["out_of_domain"].chance)


def test_a_cue_that_is_turned_over_in_each_of_two_domains_is_lost_outside() -> None:
    split, domain = rows(domains=2, spread=0.1)
    turned = Split.of(torch.where(domain[:, None] == 1, -split.features, split.features), split.label, split.group)
    found = by_name(domain_gap(turned, domain))
    assert (found["in_domain"].value, found["out_of_domain"].value, found["gap"].value) == (1, 0, 1)
    assert (found["gap"].low, found["gap"].high) == (1, 1)
    for one in found["gap"].detail["domains"]:
        assert (one["in_domain"], one["out_of_domain"], one["num_asked"], one["num_groups"]) == (1, 0, 36, 12)


def test_domains_count_alike_whatever_their_size() -> None:
    split, domain = rows(domains=2, spread=0.1)
    keep = (domain == 0) | (split.group < 16)
    features = split.features.clone()
    features[domain == 1] = torch.randn(36, 4, generator=torch.Generator().manual_seed(0))
    found = by_name(domain_gap(Split(features[keep], split.label[keep], split.group[keep]), domain[keep]))
    each = [one["in_domain"] for one in found["in_domain"].detail["domains"]]
    assert each[0] > 0.9 > each[1]
    assert found["in_domain"].value == pytest.approx(np.mean(each))


def test_a_group_that_spans_domains_is_never_both_fitted_and_asked() -> None:
    # Each object is seen once in each domain, its label is by chance: only by a leak can the label be known.
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=40)
    features = np.tile(rng.normal(size=(40, 40)), (2, 1))
    split = Split.of(features, np.tile(label, 2), np.tile(np.arange(40), 2))
    domain = torch.arange(2).repeat_interleave(40)
    leaking = by_name(domain_gap(Split.of(features, split.label), domain))
    assert leaking["out_of_domain"].value > 0.8
    grouped = by_name(domain_gap(split, domain))
    assert grouped["out_of_domain"].value < 0.7
    assert grouped["in_domain"].value < 0.7


def test_both_classifiers_are_fitted_on_equally_many_rows_and_each_row_is_asked_once() -> None:
    split, domain = rows(domains=4)
    known, names = _usable(split, domain)
    answers = _leave_out(known, names[1], 3, 0)
    assert sorted(answers.rows) == torch.nonzero(domain == 1).flatten().tolist()
    assert answers.detail["num_fitted"] == [24, 24, 24]


def test_classes_that_no_other_domain_has_are_left_out() -> None:
    split, domain = rows(domains=2)
    label = torch.where((domain == 1) & (split.group == 12), 5, split.label)
    label[0], domain[1] = -1, -1
    detail = by_name(domain_gap(Split(split.features, label, split.group), domain))["gap"].detail
    assert [one["left_out"] for one in detail["domains"]] == [0, 3]
    assert [one["num_asked"] for one in detail["domains"]] == [34, 33]
    assert detail["without_label_or_domain"] == 2


def test_what_cannot_be_asked_is_refused_with_the_reason() -> None:
    split, domain = rows(domains=2)
    one_group = Split(split.features, split.label, torch.where(domain == 1, 99, split.group))
    few_classes = Split(split.features, torch.where(domain == 1, 1, split.label), split.group)
    shared = Split(split.features, split.label, torch.where(domain == 1, 0, split.group))
    two_groups = Split(split.features, split.label, split.group % 2)
    assert len(domain_gap(two_groups, domain)) == 3
    for bad, where, folds, reason in [
        (split, torch.zeros_like(domain), 3, r"of 1 domain\(s\); two are needed"),
        (one_group, domain, 3, "domain 1 has a single group"),
        (few_classes, domain, 3, r"domain 0 shares 1 class\(es\)"),
        (shared, domain, 3, "the others have only groups of domain 0"),
        (split, domain, 1, "num_folds must be at least 2, got 1"),
    ]:
        with pytest.raises(InvalidInput, match=reason):
            domain_gap(bad, where, num_folds=folds)
