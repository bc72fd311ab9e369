"""Which variance the utilities of a study are said to read."""

import numpy as np
import pyarrow as pa
import pytest

from prudent.errors import DataError
from prudent.evaluation._study_utilities import studied_utilities
from prudent.scoring import ScoredPool

TEXTS = {
    "mean": None,
    "lcb_std": "marginal",
    "center(mean) | lcb_std": "centered",
    "temperature(2) | center(mean) | lcb_std": "centered",
    "standardize | lcb_std": "centered",
    "center(at=0) | lcb_std": "marginal",
    "center(of=all) | lcb_std": "marginal",
    "center(mean) | log_sigmoid | cvar": "centered",
}


def pool(stored: bool) -> ScoredPool:
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 6)
    mean, is_reference = rng.normal(size=12), np.tile([True] * 3 + [False] * 3, 2)
    columns = {"prompt_id": group, "reward_mean": mean, "reward_variance": rng.uniform(1, 2, 12)}
    columns["is_reference"] = is_reference
    if stored:
        columns["reward_reference"] = np.array([mean[(group == one) & is_reference].mean() for one in group])
        columns["reward_centered_variance"] = rng.uniform(0, 1, 12)
    return ScoredPool(pa.table(columns))


def test_a_reward_that_no_utility_can_name():
    columns = {f"{name}_reward_{kind}": [1.0, 2.0] for name in ("a", "my model") for kind in ("mean", "variance")}
    odd = ScoredPool(pa.table({"prompt_id": [0, 0], **columns}), "odd.parquet")
    with pytest.raises(DataError, match=r"odd\.parquet: a reward cannot be called 'my model'.*rename the columns"):
        studied_utilities(odd, None)


@pytest.mark.parametrize("stored", [True, False])
def test_a_variance_is_called_what_is_read(stored: bool):
    found = {one.key: one for one in studied_utilities(pool(stored), list(TEXTS))}
    # without a contrast in the file there is the reward's own variance alone
    expected = {key: kind if stored or kind is None else "marginal" for key, kind in TEXTS.items()}
    assert {key: one.variance for key, one in found.items()} == expected
    beside = {key: one.beside for key, one in found.items() if one.beside is not None}
    assert beside == ({"center(mean) | lcb_std": "lcb_std"} if stored else {})
