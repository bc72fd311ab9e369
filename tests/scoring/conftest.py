"""What several tests of scored pools need."""

from collections.abc import Callable

import pytest

from prudent.rewards import RewardPosterior
from prudent.scoring import ScoredPool
from prudent.utility import Center


@pytest.fixture(scope="session")
def centered_rewards() -> Callable[[ScoredPool], RewardPosterior]:
    """The only reward of a pool relative to the mean of each prompt's references, as `center(mean)` makes it."""

    def centered(pool: ScoredPool) -> RewardPosterior:
        rewards, center = pool.reward_set(), Center("mean")
        (name,) = rewards.names
        state = center.init(rewards.reference_rewards(name))
        return center.apply(rewards.against_references[name], state)

    return centered
