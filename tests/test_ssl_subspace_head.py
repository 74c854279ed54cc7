import pytest
import torch
from subspace_trainees import small_head

from viewfold.ssl.subspace_head import SubspaceHeadConfig, unit_rows


def test_codes_are_the_features_right_after_the_head_was_copied() -> None:
    head, x = small_head(16, heads="two", hidden_widths=(24, 12)).eval(), torch.randn(9, 16)
    z, c = head(x)
    assert not torch.equal(z, c)
    head.copy_feature_head()
    z, c = head(x)
    assert torch.equal(z, c)


def test_one_head_has_no_codes_of_its_own() -> None:
    head = small_head(16)
    z, c = head(torch.randn(9, 16))
    assert c is z
    assert not any(name.startswith("cluster") for name, _ in head.named_parameters())


def test_rows_have_length_1_in_float32_under_bfloat16_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, c = small_head(16, heads="two")(torch.randn(9, 16))
    assert z.dtype == c.dtype == torch.float32
    torch.testing.assert_close(torch.stack([z, c]).norm(dim=2), torch.ones(2, 9))
    assert unit_rows(torch.zeros(2, 3)).eq(0).all()


def test_views_are_normalised_apart() -> None:
    head, x = small_head(16, heads="two"), torch.randn(2, 9, 16) * torch.tensor([1.0, 30.0])[:, None, None]
    apart = [torch.stack(rows) for rows in zip(*(head(view) for view in x), strict=True)]
    torch.testing.assert_close(list(head(x)), apart)


def test_without_a_trunk_the_heads_are_linear() -> None:
    head, x = small_head(16, hidden_widths=()), torch.randn(9, 16)
    torch.testing.assert_close(head(x)[0], unit_rows(head.feature(x)))


@pytest.mark.parametrize("wrong", [{"dim": 1}, {"part_dim": 0}, {"hidden_widths": (0,)}])
def test_a_head_without_room_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        SubspaceHeadConfig(**{"part": "all", "part_dim": 4, "hidden_widths": (4,), "dim": 4, **wrong})  # type: ignore[arg-type]
