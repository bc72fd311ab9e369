"""The curve of one utility against enumeration of all subsets."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from prudent.errors import DataError, UnsupportedError
from prudent.evaluation import utility_curve
from prudent.rewards import GaussianRewards, from_arrow
from prudent.selection import best_of_n_kl
from prudent.utility import parse_utility


def table(sizes=(6, 5), *, factor=True, seed=0) -> pa.Table:
    import torch

    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    rows = torch.randn(total, 3, generator=generator)
    rewards = GaussianRewards(
        torch.randn(total, generator=generator),
        rows.square().sum(1),
        torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
        rows if factor else None,
    )
    made = rewards.to_arrow().append_column("gold", pa.array(torch.randn(total, generator=generator).tolist()))
    return made.append_column("response", pa.array([f"text {index}" for index in range(total)]))


@pytest.mark.parametrize("text", ["mean", "lcb_std(0.7)", "lcb_var(0.4)", "entropic(0.9)", "quantile(0.3)"])
def test_exact_curve_is_the_average_over_all_subsets(text):
    made = table()
    curve = utility_curve(made, utility=text, n_values=[1, 2, 5])
    assert curve.utility == text
    utility = parse_utility(text)(from_arrow(made)).numpy()
    gold, mean = made["gold"].to_numpy(), made["reward_mean"].to_numpy()
    for point in curve.points:
        picks = []
        for rows in (range(6), range(6, 11)):
            subsets = [max(subset, key=lambda row: utility[row]) for subset in combinations(rows, point.n)]
            picks.append((gold[subsets].mean(), mean[subsets].mean()))
        expected = np.mean(picks, axis=0)
        assert point.gold == pytest.approx(expected[0], rel=1e-5)
        assert point.proxy == {"reward": pytest.approx(expected[1], rel=1e-5)}
        assert point.kl == pytest.approx(float(best_of_n_kl(point.n)))
    assert (curve.exact, curve.num_prompts, curve.num_candidates, curve.num_distinct) == (True, 2, 11, 11)


def test_a_utility_that_looks_at_others_is_resampled_with_its_error():
    curve = utility_curve(table(), utility="prob_best", n_values=[1, 3, 5], num_resamples=200)
    assert not curve.exact
    assert all(point.kl is None for point in curve.points)
    first, last = curve.points[0], curve.points[-1]
    gold = table()["gold"].to_numpy()
    average = (gold[:6].mean() + gold[6:].mean()) / 2
    assert first.gold == pytest.approx(average, abs=4 * first.gold_standard_error)
    assert first.gold_standard_error > 0.01
    assert last.proxy["reward"] > first.proxy["reward"]


def test_proxy_and_gold_are_of_the_same_picks():
    made = table()
    doubled = made.set_column(made.column_names.index("gold"), "gold", pa.array(2.0 * made["reward_mean"].to_numpy()))
    curve = utility_curve(doubled, utility="prob_best", n_values=[2, 4], num_resamples=8)
    for point in curve.points:
        assert point.gold == pytest.approx(2 * point.proxy["reward"])
        assert point.gold_standard_error == pytest.approx(2 * point.proxy_standard_error["reward"])


def test_default_grid_is_coarse_where_subsets_are_drawn(capsys):
    made = table((70, 64))
    assert [point.n for point in utility_curve(made, utility="prob_best", num_resamples=2).points] == [1, 4, 16, 64]
    assert capsys.readouterr().err == ""
    larger = utility_curve(table((70, 66)), utility="prob_best", num_resamples=2, progress=True)
    assert [point.n for point in larger.points] == [1, 4, 16, 64, 66]
    assert "Drawing subsets" in capsys.readouterr().err
    assert len(utility_curve(made).points) > 10


def test_several_policies_have_no_kl_and_no_gold_is_no_gold():
    several = table().append_column("model", pa.array([f"m{index}" for index in range(11)]))
    assert utility_curve(several).points[-1].kl is None
    assert utility_curve(several, one_policy=True).points[-1].kl is not None
    assert utility_curve(table().drop_columns(["gold"])).points[-1].gold is None


def test_what_is_not_stored_is_named():
    with pytest.raises(UnsupportedError, match="factor"):
        utility_curve(table(factor=False), utility="prob_best")
    with pytest.raises(DataError, match="which responses are the references"):
        utility_curve(table(), utility="center(mean) | lcb_std")
    with pytest.raises(DataError, match="no prompt has 7"):
        utility_curve(table(), n_values=[7])
