"""Reward models that know what they do not know, and selection that respects it.

Names are imported when they are first used, so that `import prudent` costs nothing and the core (`prudent.rewards`,
`prudent.utility`, `prudent.selection`, `prudent.metrics`) works where Transformers is not installed.

Example:
    >>> import torch, prudent
    >>> rewards = prudent.GaussianRewards(mean=torch.tensor([1.0, 1.2]), variance=torch.tensor([0.1, 2.0]))
    >>> prudent.parse_utility("lcb_std(1)")(rewards).argmax().item()
    0
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prudent.alignment import PrudentReward, reweight_pool, write_reward_file
    from prudent.alignment.rlhf import AlignConfig, align
    from prudent.data import World, load_pools, load_preferences
    from prudent.errors import DataError, ModelError, PosteriorError, PrudentError, UnsupportedError, UtilityError
    from prudent.evaluation import best_of_n_study, compare_utilities, evaluate, overopt, run_benchmark, run_demo
    from prudent.models import RewardModel
    from prudent.posteriors import LastLayerPosterior, clean, fit, load_posterior
    from prudent.reports import report
    from prudent.rewards import (
        GaussianRewards,
        MemberRewards,
        RewardPosterior,
        TransformedRewards,
        concatenate,
        from_arrow,
    )
    from prudent.sampling import Policy, sample_pool
    from prudent.scoring import (
        ScoredPool,
        UtilityModel,
        explain,
        fit_utility,
        load_utility,
        read_scored,
        score,
        score_columns,
        score_members,
        select,
        tune_utility,
    )
    from prudent.selection import best_of_n, best_of_n_curve, best_of_n_kl
    from prudent.training import TrainingConfig, train
    from prudent.utility import RewardSet, parse_utility

__version__ = "0.1.0"

__all__ = [
    "AlignConfig",
    "DataError",
    "GaussianRewards",
    "LastLayerPosterior",
    "MemberRewards",
    "ModelError",
    "Policy",
    "PosteriorError",
    "PrudentError",
    "PrudentReward",
    "RewardModel",
    "RewardPosterior",
    "RewardSet",
    "ScoredPool",
    "TrainingConfig",
    "TransformedRewards",
    "UnsupportedError",
    "UtilityError",
    "UtilityModel",
    "World",
    "__version__",
    "align",
    "best_of_n",
    "best_of_n_curve",
    "best_of_n_kl",
    "best_of_n_study",
    "clean",
    "compare_utilities",
    "concatenate",
    "evaluate",
    "explain",
    "fit",
    "fit_utility",
    "from_arrow",
    "load_pools",
    "load_posterior",
    "load_preferences",
    "load_utility",
    "overopt",
    "parse_utility",
    "read_scored",
    "report",
    "reweight_pool",
    "run_benchmark",
    "run_demo",
    "sample_pool",
    "score",
    "score_columns",
    "score_members",
    "select",
    "train",
    "tune_utility",
    "write_reward_file",
]

# Where each name of the block above lives; a test holds the two together.
_HOMES = {
    "prudent.alignment": ("PrudentReward", "reweight_pool", "write_reward_file"),
    "prudent.alignment.rlhf": ("AlignConfig", "align"),
    "prudent.data": ("World", "load_pools", "load_preferences"),
    "prudent.errors": ("DataError", "ModelError", "PosteriorError", "PrudentError", "UnsupportedError", "UtilityError"),
    "prudent.evaluation": ("best_of_n_study", "compare_utilities", "evaluate", "overopt", "run_benchmark", "run_demo"),
    "prudent.models": ("RewardModel",),
    "prudent.posteriors": ("LastLayerPosterior", "clean", "fit", "load_posterior"),
    "prudent.reports": ("report",),
    "prudent.rewards": (
        "GaussianRewards",
        "MemberRewards",
        "RewardPosterior",
        "TransformedRewards",
        "concatenate",
        "from_arrow",
    ),
    "prudent.sampling": ("Policy", "sample_pool"),
    "prudent.scoring": (
        "ScoredPool",
        "UtilityModel",
        "explain",
        "fit_utility",
        "load_utility",
        "read_scored",
        "score",
        "score_columns",
        "score_members",
        "select",
        "tune_utility",
    ),
    "prudent.selection": ("best_of_n", "best_of_n_curve", "best_of_n_kl"),
    "prudent.training": ("TrainingConfig", "train"),
    "prudent.utility": ("RewardSet", "parse_utility"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'prudent' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
