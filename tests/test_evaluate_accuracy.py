"""kNN and linear accuracy against brute force and scikit-learn, with their chance levels."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import Split, knn_accuracy, linear_accuracy
from viewfold.ssl.evaluate.knn import nearest_classes
from viewfold.ssl.evaluate.linear import fit_softmax


def clusters(rows_per_class: list[int], *, seed: int, spread: float = 1.0, dim: int = 8) -> Split:
    """Rows around one fixed centre a class."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(42).normal(size=(len(rows_per_class), dim))
    label = np.repeat(np.arange(len(rows_per_class)), rows_per_class)
    return Split.of(centres[label] + spread * rng.normal(size=(len(label), dim)), label, np.arange(len(label)))


def brute_force_ranking(gallery: Split, queries: Split, k: int) -> list[list[int]]:
    """All classes for each query: by votes, summed similarity and label, then those without a vote by frequency."""
    shelf, asked = (s.features.double().numpy() for s in (gallery, queries))
    labels = gallery.label.tolist()
    answers = []
    for query in asked:
        cosine = shelf @ query / np.linalg.norm(shelf, axis=1) / np.linalg.norm(query)
        votes: dict[int, list[float]] = {}
        for row in np.argsort(-cosine)[:k]:
            votes.setdefault(labels[row], []).append(cosine[row])
        others = sorted(set(labels) - set(votes), key=lambda c: (-labels.count(c), c))
        answers.append(sorted(votes, key=lambda c: (-len(votes[c]), -sum(votes[c]), c)) + others)
    return answers


def first_class(gallery: Split, queries: Split, *, k: int, exclude_group: bool = False) -> list[int]:
    return nearest_classes(gallery, queries, k=k, num=1, exclude_group=exclude_group)[:, 0].tolist()


@pytest.mark.parametrize("k", [1, 4, 7])
def test_votes_equal_brute_force(k: int) -> None:
    gallery, queries = clusters([30, 20, 10], seed=0, spread=2), clusters([300, 400, 500], seed=1, spread=2)
    expected = [classes[0] for classes in brute_force_ranking(gallery, queries, k)]
    assert first_class(gallery, queries, k=k) == expected
    measures = knn_accuracy(gallery, queries, k=k)
    assert [m.name for m in measures] == [
        f"knn{k}/top1",
        f"knn{k}/top1_balanced",
    ]  # top-5 of three classes says nothing
    top1 = measures[0]
    assert top1.value == pytest.approx(np.mean(np.array(expected) == queries.label.numpy()))
    assert top1.low is not None
    assert top1.high is not None
    assert top1.low < top1.value < top1.high


@pytest.mark.parametrize("k", [1, 5, 20])
def test_top_five_equals_brute_force(k: int) -> None:
    gallery, queries = clusters([9, 12, 7, 15, 7, 8, 20, 3], seed=0, spread=2), clusters([30] * 8, seed=1, spread=2)
    expected = np.array([classes[:5] for classes in brute_force_ranking(gallery, queries, k)])
    assert nearest_classes(gallery, queries, k=k, num=5, exclude_group=False).tolist() == expected.tolist()
    by_name = {m.name.removeprefix(f"knn{k}/"): m for m in knn_accuracy(gallery, queries, k=k)}
    assert list(by_name) == ["top1", "top1_balanced", "top5", "top5_balanced"]
    hits = (expected == queries.label.numpy()[:, None]).any(axis=1)
    assert by_name["top5"].value == pytest.approx(hits.mean())
    assert by_name["top5"].value >= by_name["top1"].value
    assert by_name["top5"].chance == by_name["top5_balanced"].chance == 5 / 8


def test_a_gallery_that_tells_nothing_is_at_chance_in_the_first_five() -> None:
    label = torch.arange(7).repeat_interleave(torch.tensor([9, 8, 7, 6, 5, 4, 3]))
    same = Split.of(torch.ones(len(label), 3), label)
    for measure in knn_accuracy(same, same, k=len(label)):
        assert measure.value == measure.chance, measure.name


def test_a_draw_goes_to_the_nearer_and_then_to_the_lower_class() -> None:
    near, far = [1.0, 0.1], [1.0, 0.5]
    query = Split.of([[1.0, 0.0]], [0])
    for rows, labels, winner in [([near, far], [3, 2], 3), ([far, near], [3, 2], 2), ([near, near], [3, 2], 2)]:
        assert first_class(Split.of(rows, labels), query, k=2) == [winner]


def test_own_groups_do_not_vote() -> None:
    split = Split.of(torch.eye(3).repeat_interleave(2, 0), [0, 1, 0, 1, 0, 1], np.arange(6))
    leave_one_out = knn_accuracy(split, split, k=1, exclude_group=True)
    assert leave_one_out[0].value == 0.0  # each row's twin has the other class
    assert knn_accuracy(split, split, k=2)[0].value == 0.5
    same = Split.of(split.features, split.label, np.zeros(6))
    assert first_class(same, same, k=1, exclude_group=True) == [-1] * 6
    with pytest.raises(InvalidInput, match="needs a group for every query"):
        knn_accuracy(split, Split.of(split.features, split.label), k=1, exclude_group=True)


def test_balanced_accuracy_gives_every_class_the_same_weight() -> None:
    gallery = Split.of([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    queries = Split.of([[1.0, 0.0]] * 8 + [[1.0, 0.1], [0.0, 1.0]], [0] * 8 + [1, 1])
    plain, balanced = knn_accuracy(gallery, queries, k=1)
    assert (plain.value, balanced.value) == (0.9, 0.75)
    assert (plain.chance, balanced.chance) == (0.8, 0.5)
    assert (plain.name, balanced.name) == ("knn1/top1", "knn1/top1_balanced")


def test_rows_without_label_neither_vote_nor_ask() -> None:
    gallery = Split.of([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [-1, 1, 0])
    measure = knn_accuracy(gallery, Split.of([[1.0, 0.0], [0.0, 1.0]], [1, -1]), k=1)[0]
    assert (measure.value, measure.n, measure.detail["unlabelled_queries"]) == (1.0, 1, 1)
    with pytest.raises(InvalidInput, match=r"k must lie in 1\.\.2"):
        knn_accuracy(gallery, gallery, k=3)
    with pytest.raises(InvalidInput, match="none of the 1 samples has a label"):
        knn_accuracy(Split.of([[1.0]], [-1]), gallery)


def test_linear_fit_equals_scikit_learn() -> None:
    train, l2 = clusters([60, 40, 20], seed=0), 1e-2
    weight, mean, deviation = fit_softmax(train.features, train.label, l2=l2, max_iterations=200)
    rows = ((train.features - mean) / deviation).double().numpy()
    model = LogisticRegression(C=1 / (l2 * len(rows)), tol=1e-8, max_iter=1000).fit(rows, train.label.numpy())
    logits = rows @ weight[:-1].double().numpy() + weight[-1].double().numpy()
    expected = model.decision_function(rows)
    centred = logits - logits.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True)
    np.testing.assert_allclose(*centred, atol=5e-3)


def test_linear_accuracy_is_above_chance_where_classes_separate_and_at_chance_where_they_do_not() -> None:
    sizes = [40, 30, 20, 20, 20, 20, 20]
    train, val = clusters(sizes, seed=0, spread=0.5), clusters(sizes, seed=1, spread=0.5)
    by_name = {m.name: m for m in linear_accuracy(train, val)}
    assert sorted(by_name) == ["linear/top1", "linear/top1_balanced", "linear/top5", "linear/top5_balanced"]
    assert by_name["linear/top1"].value > 0.8
    assert by_name["linear/top1"].chance == pytest.approx(40 / 170)
    assert by_name["linear/top5"].chance == pytest.approx(130 / 170)
    assert by_name["linear/top5_balanced"].chance == pytest.approx(5 / 7)
    constant = Split.of(torch.ones(170, 8), val.label, val.group)
    for measure in linear_accuracy(constant, constant):
        assert measure.value == pytest.approx(measure.chance)
    json.dumps([m.to_dict() for m in by_name.values()])


def test_classes_that_were_never_trained_on_count_as_wrong() -> None:
    train = clusters([20, 20], seed=0, spread=0.1)
    val = clusters([10, 10, 10], seed=1, spread=0.1)
    assert linear_accuracy(train, val)[0].value == pytest.approx(2 / 3)
    with pytest.raises(InvalidInput, match="have one class"):
        linear_accuracy(clusters([20], seed=0), val)


def test_the_same_data_gives_the_same_bits() -> None:
    train, val = clusters([30, 30, 30], seed=0, spread=2), clusters([30, 30, 30], seed=1, spread=2)
    assert linear_accuracy(train, val) == linear_accuracy(train, val)
    assert knn_accuracy(train, val) == knn_accuracy(train, val)
