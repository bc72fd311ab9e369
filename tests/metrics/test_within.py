import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prudent.metrics import partial_out, spearman_within, zscore_within

ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)


@given(ROWS)
def test_spearman_agrees_with_scipy_prompt_by_prompt(rows: list[tuple[int, int, int]]) -> None:
    group, a, b = (torch.tensor(column) for column in zip(*rows, strict=True))
    got = spearman_within(a.float(), b.float(), group)
    for place, prompt in enumerate(sorted(set(group.tolist()))):
        x, y = a[group == prompt].numpy(), b[group == prompt].numpy()
        if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
            assert got[place].isnan()
        else:
            assert got[place].item() == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


def test_partial_out_is_the_residual_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(0, 5, (200,), generator=generator)
    length = 100 * torch.rand(200, generator=generator)
    gold = 0.03 * length + torch.randn(200, generator=generator)
    residual = partial_out(gold, length, group)
    for prompt in range(5):
        mine = (group == prompt).numpy()
        x, y = length.double().numpy()[mine], gold.double().numpy()[mine]
        design = np.stack([np.ones_like(x), x], 1)
        expected = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        np.testing.assert_allclose(residual.numpy()[mine], expected, atol=1e-9)


def test_zscore_is_scipys() -> None:
    generator = torch.Generator().manual_seed(1)
    group = torch.randint(0, 4, (60,), generator=generator)
    value = torch.randn(60, generator=generator)
    got = zscore_within(value, group)
    for prompt in range(4):
        mine = group == prompt
        np.testing.assert_allclose(got[mine], stats.zscore(value[mine].double().numpy()), atol=1e-12)


def test_constant_prompts_give_zeros() -> None:
    value, group = torch.full((7,), 0.1), torch.tensor([0, 0, 0, 0, 0, 0, 1])
    assert zscore_within(value, group).tolist() == [0] * 7
    assert partial_out(value, torch.arange(7.0), group).tolist() == [0] * 7
    assert partial_out(torch.tensor([1.0, 3.0]), torch.full((2,), 0.1), torch.zeros(2).long()).tolist() == [-1, 1]
    assert spearman_within(value, torch.arange(7.0), group).isnan().all()


def test_unscored_rows_stay_so_and_do_not_count() -> None:
    value, group = torch.tensor([1.0, 3.0, math.nan, 9.0]), torch.tensor([0, 0, 0, 1])
    assert zscore_within(value, group).nan_to_num(7.0).tolist() == [-1, 1, 7, 0]
    residual = partial_out(value, torch.tensor([0.0, 1.0, 5.0, math.nan]), group)
    assert residual.nan_to_num(7.0).tolist() == [0, 0, 7, 7]
    a = torch.tensor([1.0, 2.0, 3.0, math.nan])
    b = torch.tensor([3.0, 2.0, 1.0, 4.0])
    assert spearman_within(a, b, torch.zeros(4).long()).item() == pytest.approx(-1)


def test_wrong_shapes_are_named() -> None:
    for call in (
        lambda: zscore_within(torch.zeros(3), torch.zeros(2).long()),
        lambda: partial_out(torch.zeros(3), torch.zeros(2), torch.zeros(3).long()),
        lambda: spearman_within(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 2).long()),
    ):
        with pytest.raises(ValueError, match="vectors of one length"):
            call()
