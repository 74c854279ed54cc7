"""Views are a function of seed, epoch, sample and view number, and of nothing else."""

import dataclasses
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from viewfold.augment import (
    POLICIES,
    AffineColourPolicy,
    AffinePolicy,
    FieldMediumPolicy,
    FieldStrongPolicy,
    NonePolicy,
    PolicyConfig,
    describe,
    draw_names,
    draw_view,
    make_views,
    param_names,
    policy_warnings,
    relative_names,
    render,
    view_param_names,
)
from viewfold.augment.params import GEOMETRY
from viewfold.augment.transform import Geometric, Photometric
from viewfold.config import choose, dump, fingerprint, parse
from viewfold.errors import InvalidInput
from viewfold.values import Batch

DRAWN = [policy() for name, policy in sorted(POLICIES.items()) if policy().transforms()]


def batch_of(size: int, num_images: int = 1, latents: int = 0) -> Batch:
    noise = torch.Generator().manual_seed(7)
    return Batch(
        images=torch.randint(256, (num_images, size, 3, 24, 20), dtype=torch.uint8, generator=noise),
        keys=[f"objects-000000/obj-{i:04d}" for i in range(size)],
        rows=torch.arange(size),
        epochs=torch.arange(size) // 3,
        members=torch.arange(num_images)[:, None].expand(-1, size),
        label=torch.arange(size) % 4,
        domain=torch.full((size,), -1),
        group=torch.arange(size),
        latents=torch.rand(num_images, size, latents, generator=noise) if latents else None,
    )


def part_of(batch: Batch, rows: list[int]) -> Batch:
    i = torch.tensor(rows)
    along_rows = {name: getattr(batch, name)[i] for name in ("rows", "epochs", "label", "domain", "group")}
    return dataclasses.replace(
        batch, images=batch.images[:, i], members=batch.members[:, i], keys=[batch.keys[r] for r in rows], **along_rows
    )


def params_of(batch: Batch, policy: PolicyConfig, seed: int = 0) -> Tensor:
    params = make_views(batch, policy, seed=seed).params
    assert params is not None
    return params


@pytest.mark.parametrize("policy", DRAWN, ids=type)
@pytest.mark.parametrize("rows", [[5, 0, 7, 3], [6], [0, 1, 2, 3, 4], [8, 7, 6, 5, 4, 3, 2, 1, 0]])
def test_a_view_does_not_depend_on_its_batch(policy: PolicyConfig, rows: list[int]) -> None:
    batch = batch_of(9)
    whole, part = make_views(batch, policy, seed=3), make_views(part_of(batch, rows), policy, seed=3)
    assert torch.equal(part.images, whole.images[:, rows])
    assert part.params is not None
    assert whole.params is not None
    assert torch.equal(part.params, whole.params[:, rows])
    assert part.relative is not None
    assert whole.relative is not None
    assert torch.equal(part.relative, whole.relative[rows])
    assert torch.equal(part.label, whole.label[rows])


@pytest.mark.parametrize("policy", DRAWN, ids=type)
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_a_view_depends_neither_on_the_chunk_it_is_rendered_in_nor_on_the_threads(
    policy: PolicyConfig, size: tuple[int, int]
) -> None:
    images = torch.rand(19, 3, *size, generator=torch.Generator().manual_seed(0))
    draws = draw_view(policy, seed=0, epochs=[0] * 19, samples=[f"s/{i}" for i in range(19)], view=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = render(policy, images, draws)
        torch.set_num_threads(2)
        assert torch.equal(render(policy, images, draws), whole)
        for rows in ([18], [17, 3], list(range(11, -1, -1))):
            assert torch.equal(render(policy, images[rows], draws[rows]), whole[rows])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("policy", DRAWN, ids=type)
def test_views_stay_within_zero_and_one(policy: PolicyConfig) -> None:
    batch = batch_of(32)
    checks = dataclasses.replace(batch, images=(batch.images > 127).to(torch.uint8) * 255)
    images = make_views(checks, policy, seed=0).images
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("policy", DRAWN, ids=type)
def test_views_differ_by_view_sample_epoch_and_seed(policy: PolicyConfig) -> None:
    samples = [f"s/{i}" for i in range(6)]

    def drawn(seed: int = 0, epoch: int = 0, view: int = 0) -> Tensor:
        return draw_view(policy, seed=seed, epochs=[epoch] * 6, samples=samples, view=view)

    every = torch.cat([drawn(), drawn(view=1), drawn(epoch=1), drawn(seed=1)])
    assert len({row.numpy().tobytes() for row in every}) == 24
    assert make_views(batch_of(6), policy, seed=0).images.shape == (2, 6, 3, 24, 20)


@pytest.mark.parametrize("policy", DRAWN, ids=type)
def test_replay_from_the_recorded_draws_is_bit_exact(policy: PolicyConfig) -> None:
    batch = batch_of(5)
    views = make_views(batch, policy, seed=11)
    for view in range(2):
        draws = draw_view(policy, seed=11, epochs=batch.epochs.tolist(), samples=batch.keys, view=view)
        assert torch.equal(render(policy, batch.images[0].float() / 255, draws), views.images[view])


def test_draws_of_a_view_replay_at_twice_the_resolution() -> None:
    policy = FieldMediumPolicy()
    coarse = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(coarse, size=(256, 256), mode="bicubic").clamp(0, 1)
    draws = draw_view(policy, seed=0, epochs=[0] * 4, samples=[f"s/{i}" for i in range(4)], view=0)
    halved = torch.nn.functional.avg_pool2d(render(policy, large, draws), 2)
    small = render(policy, torch.nn.functional.avg_pool2d(large, 2), draws)
    assert (halved - small).abs().mean() <= 2e-3


@pytest.mark.parametrize("policy", DRAWN, ids=type)
def test_draws_are_a_few_kilobytes_with_a_name_each(policy: PolicyConfig) -> None:
    draws = draw_view(policy, seed=0, epochs=[0], samples=["s/0"], view=0)
    names = draw_names(policy)
    assert len(names) == len(set(names)) == draws.shape[1]
    assert draws.nbytes <= 8192


@pytest.mark.parametrize("policy", DRAWN, ids=type)
def test_draws_of_zeros_give_back_the_image_and_describe_nothing(policy: PolicyConfig) -> None:
    images = torch.rand(2, 3, 64, 32) * 0.9 + 0.1
    draws = torch.zeros(2, len(draw_names(policy)))
    # Stains are told apart in logarithms, whose rounding is the largest of all families.
    assert (render(policy, images, draws) - images).abs().max() <= 1e-5
    told = describe(policy, draws, height=64, width=32)
    assert told.params.shape == (2, len(param_names(policy)))
    assert told.params.abs().max() <= 1e-6


@pytest.mark.parametrize("policy", DRAWN, ids=type)
def test_families_that_move_points_come_first_and_a_warp_last_of_them(policy: PolicyConfig) -> None:
    transforms = policy.transforms()
    kinds = [isinstance(transform, Geometric) for transform in transforms]
    assert kinds == sorted(kinds, reverse=True)
    moving = [transform for transform in transforms if isinstance(transform, Geometric)]
    assert all(transform.is_affine for transform in moving[:-1])
    labels = [label for transform in transforms if isinstance(transform, Photometric) for label in transform.labels]
    assert param_names(policy) == ((*GEOMETRY, *labels) if moving else tuple(labels))
    assert len(set(param_names(policy))) == len(param_names(policy))


def test_one_view_can_be_made_again_from_its_key_alone() -> None:
    batch, policy = batch_of(5), FieldMediumPolicy()
    views = make_views(batch, policy, seed=11)
    draws = draw_view(policy, seed=11, epochs=[int(batch.epochs[3])], samples=[batch.keys[3]], view=1)
    again = render(policy, batch.images[0, 3:4].float() / 255, draws)
    assert torch.equal(again[0], views.images[1, 3])


def test_global_generators_are_neither_read_nor_moved() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"]
    first = make_views(batch_of(4), FieldMediumPolicy(), seed=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(make_views(batch_of(4), FieldMediumPolicy(), seed=0).images, first.images)


def test_adding_colours_changes_no_geometric_draw() -> None:
    plain, coloured = params_of(batch_of(4), AffinePolicy()), params_of(batch_of(4), AffineColourPolicy())
    assert torch.equal(coloured[..., : len(GEOMETRY)], plain)


def test_the_stored_image_is_not_changed() -> None:
    images = torch.rand(3, 3, 32, 32)
    before = images.clone()
    for policy in DRAWN:
        draws = draw_view(policy, seed=0, epochs=[0] * 3, samples=["a", "b", "c"], view=0)
        render(policy, images, draws)
        assert torch.equal(images, before)


def test_a_warp_reports_how_much_of_the_views_it_folds() -> None:
    facts = make_views(batch_of(4), FieldMediumPolicy(), seed=0).facts
    assert set(facts) == {"fold_fraction"}
    assert 0 <= float(facts["fold_fraction"]) < 0.01
    assert make_views(batch_of(4), AffinePolicy(), seed=0).facts == {}


def compiled_difference(name: str) -> float:
    coarse = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)
    policy = POLICIES[name]()
    draws = draw_view(policy, seed=0, epochs=[0] * 4, samples=[f"s/{i}" for i in range(4)], view=0)
    difference = render(policy, images, draws, compiled=True) - render(policy, images, draws)
    return float(difference.abs().max())


@pytest.mark.slow
def test_compiled_views_are_the_eager_ones_to_rounding(plain_process: ProcessPoolExecutor) -> None:
    assert plain_process.submit(compiled_difference, "field-medium").result() <= 1e-4


def test_without_a_policy_the_stored_images_are_the_views_and_the_latents_the_parameters() -> None:
    batch = batch_of(4, num_images=2, latents=7)
    views = make_views(batch, NonePolicy(), seed=0)
    assert torch.equal((views.images * 255).round().to(torch.uint8), batch.images)
    assert batch.latents is not None
    assert views.params is not None
    assert torch.equal(views.params, batch.latents)
    assert views.names == tuple(f"latent_{i}" for i in range(7))
    assert views.relative is None
    assert views.relative_names == ()


def test_without_policy_and_latents_there_are_no_parameters() -> None:
    views = make_views(batch_of(4), NonePolicy(), seed=0)
    assert views.images.shape == (1, 4, 3, 24, 20)
    assert views.params is None
    assert views.names == ()


def test_a_pair_keeps_its_latents_in_front_of_what_was_drawn() -> None:
    batch = batch_of(4, num_images=2, latents=3)
    views = make_views(batch, AffinePolicy(), seed=0)
    assert views.params is not None
    assert views.params.shape == (2, 4, 3 + len(GEOMETRY))
    assert batch.latents is not None
    assert torch.equal(views.params[..., :3], batch.latents)
    assert views.names[2:4] == ("latent_2", "rotation_rad")
    assert views.relative is not None
    assert views.relative.shape == (4, 1 + len(GEOMETRY))
    assert views.relative_names == relative_names(GEOMETRY)


def test_latents_of_a_single_image_are_left_out_of_drawn_views() -> None:
    views = make_views(batch_of(4, latents=3), AffinePolicy(), seed=0)
    assert views.names == view_param_names(AffinePolicy(), num_images=1, num_latents=3) == GEOMETRY
    assert views.params is not None
    assert views.params.shape == (2, 4, len(GEOMETRY))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_is_read_back_from_its_own_dump(name: str) -> None:
    policy = choose("policy", POLICIES, {"name": name})
    assert dump(policy)["name"] == name
    assert choose("policy", POLICIES, dump(policy)) == policy


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_has_one_fingerprint_before_and_after_it_was_written_down(name: str) -> None:
    policy = POLICIES[name]()
    assert fingerprint(policy) == fingerprint(parse(type(policy), dump(policy)))


@pytest.mark.parametrize("policy", DRAWN, ids=type)
def test_a_callers_lower_precision_changes_no_view(policy: PolicyConfig) -> None:
    expected = make_views(batch_of(3), policy, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = make_views(batch_of(3), policy, seed=0)
    assert torch.equal(views.images, expected.images)
    assert views.params is not None
    assert expected.params is not None
    assert torch.equal(views.params, expected.params)


@pytest.mark.parametrize("policy", DRAWN, ids=type)
def test_images_of_other_float_types_and_none_at_all_are_taken(policy: PolicyConfig) -> None:
    images = torch.rand(3, 3, 20, 24, dtype=torch.float64)
    draws = draw_view(policy, seed=0, epochs=[0] * 3, samples=["a", "b", "c"], view=0)
    assert torch.equal(render(policy, images, draws), render(policy, images.float(), draws))
    assert render(policy, images[:0], draws[:0]).shape == (0, 3, 20, 24)


def test_images_that_cannot_be_views_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"at least 2 x 2 pixels, got 1 x 8"):
        describe(AffinePolicy(), torch.zeros(1, 5), height=1, width=8)


def test_an_unknown_policy_or_key_is_answered_with_the_known_one() -> None:
    with pytest.raises(InvalidInput, match=r"did you mean 'affine'.*affine, affine-colour, affine-haar"):
        choose("policy", POLICIES, {"name": "afine"})
    with pytest.raises(InvalidInput, match=r"unknown key 'affine\.shear'"):
        choose("policy", POLICIES, {"name": "affine", "affine": {"shear": 1}})


def test_a_warp_over_its_budget_is_warned_of_with_the_number() -> None:
    assert policy_warnings(FieldMediumPolicy()) == []
    (warning,) = policy_warnings(FieldStrongPolicy())
    assert f"{FieldStrongPolicy().warp.gradient_budget:.2f}, over 0.20" in warning
