import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prudent.errors import PosteriorError
from prudent.posteriors._member_calibration import calibrate_member


def pairs(num_pairs: int, scale: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores whose Bradley-Terry logits are `scale` times their differences, with labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logit = 2 * torch.randn(num_pairs, generator=generator, dtype=torch.float64)
    won = torch.rand(num_pairs, generator=generator) < torch.sigmoid(logit)
    return logit / scale, won.double()


@pytest.mark.parametrize("scale", [1e-6, 0.02, 1.0, 3e4])
def test_the_scale_that_made_the_labels_is_found_whatever_the_unit(scale: float) -> None:
    contrast, label = pairs(4000, scale)
    calibration = calibrate_member("a", contrast, label)
    assert calibration.scale == pytest.approx(scale, rel=0.1)
    assert calibration.nll_after <= calibration.nll_before + 1e-6
    assert calibration.nll_after < math.log(2)
    agree = ((contrast > 0) == (label > 0.5)).double().mean()
    assert calibration.accuracy == pytest.approx(float(agree))


@given(st.floats(1e-20, 1e20), st.integers(0, 20))
def test_the_unit_of_the_scores_does_not_matter(unit: float, seed: int) -> None:
    contrast, label = pairs(60, 1.0, seed)
    one, other = calibrate_member("a", contrast, label), calibrate_member("a", unit * contrast, label)
    assert other.scale * unit == pytest.approx(one.scale, rel=1e-6)
    assert other.nll_after == pytest.approx(one.nll_after, abs=1e-9)


def test_a_pair_told_from_either_side_is_the_same() -> None:
    contrast, label = pairs(300, 0.5)
    turned = torch.where(label > 0.5, contrast, -contrast)
    assert calibrate_member("a", turned).scale == pytest.approx(calibrate_member("a", contrast, label).scale)


def test_members_without_a_scale_are_named() -> None:
    contrast, label = pairs(300, 1.0)
    with pytest.raises(PosteriorError, match=r"member b ranks .* its direction is reversed; negate"):
        calibrate_member("b", -contrast, label)
    with pytest.raises(PosteriorError, match="member b gives both responses of every pair the same score"):
        calibrate_member("b", 0 * contrast, label)
    with pytest.raises(PosteriorError, match=r"member b ranks 100.0% of 300 pairs as labelled, which leaves its scale"):
        calibrate_member("b", contrast.abs())
    with pytest.raises(PosteriorError, match="member b: the scores of pair 2 do not"):
        calibrate_member("b", torch.tensor([1.0, 2.0, math.nan]))
    with pytest.raises(PosteriorError, match="no pairs"):
        calibrate_member("b", torch.zeros(0))
    with pytest.raises(PosteriorError, match=r"ranks 50.0% of 4 pairs .* no scale makes it better than a coin"):
        calibrate_member("b", torch.tensor([1.0, 1.0, -1.0, -1.0]))


def test_pairs_of_one_prompt_are_not_so_many_witnesses() -> None:
    # Two prompts with nine pairs each, all ranked wrongly: eighteen witnesses if independent, but two prompts.
    contrast = -torch.ones(18)
    with pytest.raises(PosteriorError, match="reversed"):
        calibrate_member("b", contrast)
    with pytest.raises(PosteriorError, match="better than a coin"):
        calibrate_member("b", contrast, None, torch.arange(18) // 9)
