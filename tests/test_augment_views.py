"""Views are a function of seed, epoch, sample and view number, and of nothing else."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from viewfold.augment import (
    POLICIES,
    AffineColourPolicy,
    AffineConfig,
    AffinePolicy,
    ColourConfig,
    NonePolicy,
    PolicyConfig,
    apply_params,
    draw_view,
    make_views,
    param_names,
)
from viewfold.config import choose, dump
from viewfold.errors import InvalidInput
from viewfold.values import Batch

DRAWN = [AffinePolicy(), AffineColourPolicy()]


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


@pytest.mark.parametrize("policy", DRAWN)
@pytest.mark.parametrize("rows", [[5, 0, 7, 3], [6], [0, 1, 2, 3, 4], [8, 7, 6, 5, 4, 3, 2, 1, 0]])
def test_a_view_does_not_depend_on_its_batch(policy: PolicyConfig, rows: list[int]) -> None:
    batch = batch_of(9)
    whole, part = make_views(batch, policy, seed=3), make_views(part_of(batch, rows), policy, seed=3)
    assert torch.equal(part.images, whole.images[:, rows])
    assert part.params is not None
    assert whole.params is not None
    assert torch.equal(part.params, whole.params[:, rows])
    assert torch.equal(part.label, whole.label[rows])


@pytest.mark.parametrize("policy", DRAWN)
def test_views_differ_by_view_sample_epoch_and_seed(policy: PolicyConfig) -> None:
    batch = batch_of(6)
    views = make_views(batch, policy, seed=0)
    later = dataclasses.replace(batch, epochs=batch.epochs + 1)
    params = params_of(batch, policy)
    assert views.images.shape == (2, 6, 3, 24, 20)
    assert not torch.isclose(params[0, :, 0], params[1, :, 0]).any()
    assert len(set(params[:, :, 0].flatten().tolist())) == 12
    assert not torch.isclose(params, params_of(later, policy))[..., :5].any()
    assert not torch.isclose(params, params_of(batch, policy, seed=1))[..., :5].any()


@pytest.mark.parametrize("policy", DRAWN)
def test_replay_from_the_recorded_parameters_is_bit_exact(policy: PolicyConfig) -> None:
    batch = batch_of(5)
    views = make_views(batch, policy, seed=11)
    assert views.params is not None
    for view in range(2):
        assert torch.equal(apply_params(policy, batch.images[0].float() / 255, views.params[view]), views.images[view])


def test_one_view_can_be_made_again_from_its_key_alone() -> None:
    batch, policy = batch_of(5), AffineColourPolicy()
    views = make_views(batch, policy, seed=11)
    params = draw_view(policy, seed=11, epochs=[int(batch.epochs[3])], samples=[batch.keys[3]], view=1)
    again = apply_params(policy, batch.images[0, 3:4].float() / 255, params)
    assert torch.equal(again[0], views.images[1, 3])


def test_global_generators_are_neither_read_nor_moved() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"]
    first = make_views(batch_of(4), AffineColourPolicy(), seed=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(make_views(batch_of(4), AffineColourPolicy(), seed=0).images, first.images)


def test_adding_colours_changes_no_geometric_draw() -> None:
    assert torch.equal(params_of(batch_of(4), AffineColourPolicy())[..., :5], params_of(batch_of(4), AffinePolicy()))


def test_without_a_policy_the_stored_images_are_the_views_and_the_latents_the_parameters() -> None:
    batch = batch_of(4, num_images=2, latents=7)
    views = make_views(batch, NonePolicy(), seed=0)
    assert torch.equal((views.images * 255).round().to(torch.uint8), batch.images)
    assert batch.latents is not None
    assert views.params is not None
    assert torch.equal(views.params, batch.latents)
    assert views.names == tuple(f"latent_{i}" for i in range(7))


def test_without_policy_and_latents_there_are_no_parameters() -> None:
    views = make_views(batch_of(4), NonePolicy(), seed=0)
    assert views.images.shape == (1, 4, 3, 24, 20)
    assert views.params is None
    assert views.names == ()


def test_a_pair_keeps_its_latents_in_front_of_what_was_drawn() -> None:
    batch = batch_of(4, num_images=2, latents=3)
    views = make_views(batch, AffinePolicy(), seed=0)
    assert views.params is not None
    assert views.params.shape == (2, 4, 8)
    assert batch.latents is not None
    assert torch.equal(views.params[..., :3], batch.latents)
    assert views.names[2:4] == ("latent_2", "rotation_rad")


def test_latents_of_a_single_image_are_left_out_of_drawn_views() -> None:
    views = make_views(batch_of(4, latents=3), AffinePolicy(), seed=0)
    assert (
        views.names == param_names(AffinePolicy(), num_images=1, num_latents=3) == AffinePolicy().transforms()[0].names
    )
    assert views.params is not None
    assert views.params.shape == (2, 4, 5)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_is_read_back_from_its_own_dump(name: str) -> None:
    policy = choose("policy", POLICIES, {"name": name})
    assert dump(policy)["name"] == name
    assert choose("policy", POLICIES, dump(policy)) == policy


def test_an_unknown_policy_or_key_is_answered_with_the_known_one() -> None:
    with pytest.raises(InvalidInput, match=r"did you mean 'affine'.*affine, affine-colour, none"):
        choose("policy", POLICIES, {"name": "afine"})
    with pytest.raises(InvalidInput, match=r"unknown key 'affine\.shear'"):
        choose("policy", POLICIES, {"name": "affine", "affine": {"shear": 1}})


def test_a_range_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shear_rad must lie in 0..1.5, got 2"):
        AffineConfig(shear_rad=2)
    with pytest.raises(ValueError, match=r"grayscale must lie in 0..1, got -0.1"):
        ColourConfig(grayscale=-0.1)
