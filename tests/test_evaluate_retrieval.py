"""Retrieval of views by a predictor: the published values, the traps of sign and order, ties, chance."""

import json
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.equivariant import EquivariantHead, HeadConfig
from viewfold.ssl.evaluate import (
    Gallery,
    Measure,
    PredictedViews,
    mrr_chance,
    nearest,
    predict_views,
    prediction_error,
    view_ranks,
    view_retrieval,
)
from viewfold.ssl.geometry import conjugate, quaternion_from_angles, quaternion_product
from viewfold.ssl.predictors import LinearPredictorConfig

ANGLES = ("latent_0", "latent_1", "latent_2")
SPLITS = {"train": (0, 4), "val": (200, 3)}  # first view, objects; each has 50 views


def vector_views(split: str, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, angles and objects: a pose as an embedding, with a smooth disturbance of size `epsilon`."""
    start, num_objects = SPLITS[split]
    g = np.arange(start, start + 50 * num_objects)[:, None]
    angles = torch.from_numpy(math.pi / 2 * np.sin(1 + 1.7 * g + 2.3 * np.arange(3)))
    noise = torch.from_numpy(np.sin(0.9 * g + 1.3 * np.arange(4)))
    pose = quaternion_from_angles(angles) + epsilon * noise
    return pose.float(), angles.float(), torch.arange(num_objects).repeat_interleave(50)


def head_of(transformation: str = "rotation", num_params: int = 4, *, sign: float = 1) -> EquivariantHead:
    """Embeds features of width 4 as themselves, and predicts x (x) z, or its opposite."""
    config = HeadConfig(
        part="equivariant",
        part_dim=4,
        transformation=transformation,
        num_params=num_params,
        widths=(4,),
        predictor=LinearPredictorConfig(),
    )
    head, basis = EquivariantHead(config), torch.eye(4)
    weight = torch.zeros(4, 4, num_params)
    weight[..., :4] = quaternion_product(basis[:, None].expand(4, 4, 4), basis.expand(4, 4, 4)).movedim(2, 0)
    head.load_state_dict({"embed.0.weight": basis, "predict.weight": sign * weight})
    return head


def wrong_order(split: str) -> PredictedViews:
    """Predicted by z = q2 (x) conj(q1)."""
    embeddings, angles, objects = vector_views(split, 0)
    q = quaternion_from_angles(angles)
    source = q.view(-1, 50, 4)[:, :1].expand(-1, 50, 4).reshape(-1, 4)
    return PredictedViews(
        embeddings, quaternion_product(source, quaternion_product(q, conjugate(source))), objects, objects
    )


def values(measures: list[Measure]) -> dict[str, float]:
    return {m.name.removeprefix("retrieval/"): m.value for m in measures}


EXACT = {"pre": 0.0, "mrr": 1.0, "hit1": 1.0, "hit5": 1.0, "hit10": 1.0}


@pytest.mark.parametrize(
    ("epsilon", "split", "expected"),
    [
        (0, "train", EXACT),
        (0, "val", EXACT | {"pre_all": 0.0}),
        (0.25, "train", {"pre": 0.0680434357, "mrr": 0.3469416499, "hit1": 0.14, "hit5": 0.64, "hit10": 0.89}),
        (
            0.25,
            "val",
            {
                "pre": 0.0575767290,
                "pre_all": 0.0544555216,
                "mrr": 0.3305497169,
                "hit1": 20 / 150,
                "hit5": 0.60,
                "hit10": 136 / 150,
            },
        ),
    ],
)
def test_retrieval_has_the_published_values(epsilon: float, split: str, expected: Mapping[str, float]) -> None:
    embeddings, angles, objects = vector_views(split, epsilon)
    views = predict_views(head_of(), embeddings, angles, objects, names=ANGLES)
    shelf, shelf_angles, _ = vector_views("train", epsilon)
    measures = view_retrieval(views) + prediction_error(views, angles, train=Gallery(shelf, shelf_angles))
    found = values(measures)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6 if name in {"pre", "pre_all", "mrr"} else 1e-12), name
    assert {m.n for m in measures} == {len(objects)}


@pytest.mark.parametrize(("split", "pre"), [("train", 0.98369), ("val", 0.98406)])
def test_the_opposite_sign_of_the_transformation_ranks_every_view_last(split: str, pre: float) -> None:
    embeddings, angles, objects = vector_views(split, 0)
    views = predict_views(head_of(sign=-1), embeddings, angles, objects, names=ANGLES)
    found = values(view_retrieval(views) + prediction_error(views, angles))
    assert found.pop("pre") == pytest.approx(pre, abs=5e-6)
    assert found == pytest.approx({"mrr": 0.02, "hit1": 0, "hit2": 0, "hit5": 0, "hit10": 0})


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", {"pre": 0.49427, "mrr": 0.13135, "hit1": 0.03, "hit5": 0.16, "hit10": 0.38}),
        ("val", {"pre": 0.57919, "mrr": 0.13333, "hit1": 7 / 150, "hit5": 0.16, "hit10": 0.28}),
    ],
)
def test_the_other_order_of_the_product_is_found_out(split: str, expected: Mapping[str, float]) -> None:
    views = wrong_order(split)
    found = values(view_retrieval(views) + prediction_error(views, vector_views(split, 0)[1]))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12 if name.startswith("hit") else 5e-6), name


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_predictor_that_ignores_the_transformation_is_at_chance(split: str) -> None:
    embeddings, _, objects = vector_views(split, 0.25)
    still = embeddings.view(-1, 50, 4)[:, :1].expand(-1, 50, 4).reshape(-1, 4)
    measures = view_retrieval(PredictedViews(embeddings, still, objects, objects))
    assert values(measures) == pytest.approx(
        {"mrr": 0.0899841068, "hit1": 0.02, "hit2": 0.04, "hit5": 0.1, "hit10": 0.2}
    )
    assert [m.chance for m in measures] == pytest.approx([m.value for m in measures])


def test_an_encoder_that_makes_all_views_equal_is_at_chance() -> None:
    objects = torch.arange(6).repeat_interleave(20)
    for height in (0.0, 1.0):
        same = torch.full((120, 4), height)
        measures = view_retrieval(PredictedViews(same, same, objects, objects))
        assert [m.value for m in measures] == pytest.approx([m.chance for m in measures])
        assert measures[0].chance == pytest.approx(mrr_chance(20))
        assert measures[0].detail == {"num_objects": 6, "views_per_object": [20, 20], "tied_share": 1.0}


@pytest.mark.parametrize("normalise", [True, False])
def test_ranks_are_places_in_a_sorted_list(normalise: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    embeddings, predicted = (torch.randn(5, 7, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    ranks, ties = view_ranks(embeddings, predicted, normalise=normalise)
    assert not ties.any()
    for views, asked, found in zip(embeddings.numpy(), predicted.numpy(), ranks, strict=True):
        length = np.linalg.norm(views, axis=1) if normalise else np.ones(7)
        for target, query in enumerate(asked):
            assert np.argsort(-(views @ query) / length).tolist().index(target) + 1 == found[target]
    twice = view_ranks(embeddings[:, [0, 1, 1]], embeddings[:, [0, 1, 1]])
    assert twice[0].tolist() == [[1, 1, 1]] * 5
    assert twice[1].tolist() == [[0, 1, 1]] * 5


def test_objects_may_differ_in_views_and_rows_may_be_in_any_order() -> None:
    embeddings, angles, _ = vector_views("train", 0.25)
    counts = torch.tensor([1, 2, 5, 12, 5])
    objects = torch.arange(5).repeat_interleave(counts)
    embeddings, angles = embeddings[: len(objects)], angles[: len(objects)]
    measures = view_retrieval(predict_views(head_of(), embeddings, angles, objects, names=ANGLES))
    asked = counts[1:].tolist()
    assert measures[0].chance == pytest.approx(np.average([mrr_chance(v) for v in asked], weights=asked))
    assert measures[0].n == sum(asked)
    assert measures[0].detail["views_per_object"] == [2, 12]
    # Interleaved, each object's rows still in their order; five more columns that the relation does not read.
    shown = objects[torch.randperm(len(objects), generator=torch.Generator().manual_seed(1))]
    mixed = torch.empty(len(objects), dtype=torch.int64)
    mixed[shown.argsort(stable=True)] = torch.arange(len(objects))
    assert not torch.equal(objects[mixed], objects)
    table = torch.cat([torch.ones(len(objects), 5), angles], dim=1)[mixed]
    names = tuple(f"other_{i}" for i in range(5)) + ANGLES
    again = view_retrieval(predict_views(head_of(), embeddings[mixed], table, objects[mixed], names=names))
    assert values(again) == pytest.approx(values(measures))
    with pytest.raises(InvalidInput, match="no object has two views"):
        view_retrieval(predict_views(head_of(), embeddings, angles, torch.arange(len(objects)), names=ANGLES))


def test_heads_that_cannot_be_asked_are_refused_in_one_line() -> None:
    embeddings, angles, objects = vector_views("val", 0)
    with pytest.raises(InvalidInput, match="follows the transformation 'drawn', which stored views do not record"):
        predict_views(head_of("drawn"), embeddings, angles, objects, names=ANGLES)
    with pytest.raises(InvalidInput, match="latent_3, latent_6"):
        predict_views(head_of("rotation+colour", 6), embeddings, angles, objects, names=ANGLES)
    with pytest.raises(InvalidInput, match="embeds the 4 features of part 'equivariant', got 8"):
        predict_views(head_of(), embeddings.repeat(1, 2), angles, objects, names=ANGLES)
    with pytest.raises(InvalidInput, match="features of 150 of 150 images are nan"):
        predict_views(head_of(sign=math.nan), embeddings, angles, objects, names=ANGLES)


def test_prediction_leaves_the_mode_of_the_head_alone() -> None:
    embeddings, angles, objects = vector_views("val", 0)
    for training in (True, False):
        head = head_of().train(training)
        predict_views(head, embeddings, angles, objects, names=ANGLES)
        assert head.training == training


def test_intervals_draw_groups_and_an_object_without_group_stands_alone() -> None:
    embeddings, angles, objects = vector_views("train", 0.25)
    apart = predict_views(head_of(), embeddings, angles, objects, names=ANGLES)
    alone = predict_views(head_of(), embeddings, angles, objects, names=ANGLES, groups=np.full(200, -1))
    assert view_retrieval(alone) == view_retrieval(apart)
    one = view_retrieval(predict_views(head_of(), embeddings, angles, objects, names=ANGLES, groups=np.zeros(200)))
    assert (one[0].low, one[0].high) == (None, None)
    mrr = view_retrieval(apart)[0]
    assert mrr.low is not None
    assert mrr.high is not None
    assert mrr.low < mrr.value < mrr.high
    json.dumps([m.to_dict() for m in view_retrieval(apart) + prediction_error(apart, angles)])


def test_chance_of_the_pose_error_is_that_of_random_pairs_of_poses() -> None:
    _, angles, objects = vector_views("val", 0)
    _, shelf, _ = vector_views("train", 0)
    views = PredictedViews(torch.ones(150, 4), torch.ones(150, 4), objects, objects)
    own, both = prediction_error(views, angles, train=Gallery(torch.ones(200, 4), shelf))
    asked = quaternion_from_angles(angles.double())
    for measure, gallery in ((own, asked), (both, quaternion_from_angles(torch.cat([shelf, angles]).double()))):
        every = 1 - (asked @ gallery.T).square()
        assert measure.chance == pytest.approx(every.mean().item())
        assert measure.detail == {
            "lower_is_better": True,
            "num_gallery": len(gallery),
            "one_answer": pytest.approx(every.mean(0).min().item()),
        }


def test_the_search_is_handed_unit_vectors_with_the_training_images_first() -> None:
    embeddings, angles, objects = vector_views("val", 0.25)
    shelf, shelf_angles, _ = vector_views("train", 0.25)
    views = predict_views(head_of(), embeddings, angles, objects, names=ANGLES)
    asked: list[NDArray[np.float32]] = []

    def search(gallery: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
        asked.append(gallery)
        return nearest(gallery, queries)

    found = prediction_error(views, angles, train=Gallery(shelf, shelf_angles), search=search)
    assert found == prediction_error(views, angles, train=Gallery(shelf, shelf_angles))
    assert [len(gallery) for gallery in asked] == [150, 350]
    np.testing.assert_allclose(asked[1][:200], shelf / shelf.norm(dim=1, keepdim=True), rtol=1e-5)


def test_nearest_is_the_largest_inner_product() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = (rng.normal(size=(n, 6)).astype(np.float32) for n in (30, 40))
    expected = [max(range(30), key=lambda row: float(gallery[row] @ query)) for query in queries]
    assert nearest(gallery, queries).tolist() == expected
