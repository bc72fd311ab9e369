"""What is known of the reward of completions while a policy is trained."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.alignment._contrasts import contrast_variance
from prudent.errors import UnsupportedError
from prudent.rewards import RewardPosterior
from prudent.scoring import UtilityModel, UtilityScores
from prudent.utility import Center, Combined, Piped

__all__ = ["RewardMeasures", "measures_of", "numbers"]


@dataclass(frozen=True)
class RewardMeasures:
    """N completions and their rewards, from one scoring call.

    Attributes:
        value: [N] float64 what is handed to the trainer: the utility, less the penalty of completions that were cut.
            NaN where `is_applicable` is False.
        mean: [N] posterior mean before the utility's last rule, on the scale that the rule reads.
        std: [N] its standard deviation (epistemic), as the rule reads it: that of the contrast with the prompt's
            references where these are known. NaN where the model has no posterior.
        contrast_std: [N] standard deviation of the completion's difference to the average of the prompt's other
            completions here, which is what an advantage is. NaN where the posterior is not joint, and for a completion
            that is alone.
        components: [N] posterior mean of every reward that the utility reads, by its name.
        is_below_reference: [N] booleans, whether a reward is lower than the prompt's reference: below 0 after a
            `center` of the utility (any of them, where there are several), else below the average of the references
            that are read along. None where no reference is known. Its mean estimates the share of prompts for which a
            sampled response is worse than the reference, whatever the number of completions.
        is_applicable: [N] booleans; False where the prompt has no references and the utility needs them, or where an
            empty completion is left out.
        is_empty: [N] booleans, nothing but white space.
        is_truncated: [N] booleans, cut at the length limit; None where the limit or the tokens are not known.
        group: [N] int64, the prompt of each completion; equal prompts have one number.
        posterior: joint, over the applicable completions in their order, of what the utility's rules judge; None where
            there is none.
        embedding: [n, D] what the reward head reads of the applicable completions; None where it was not asked for.
    """

    value: Tensor
    mean: Tensor
    std: Tensor
    contrast_std: Tensor
    components: Mapping[str, Tensor]
    is_below_reference: Tensor | None
    is_applicable: Tensor
    is_empty: Tensor
    is_truncated: Tensor | None
    group: Tensor
    posterior: RewardPosterior | None
    embedding: Tensor | None

    def __len__(self) -> int:
        return len(self.value)

    @property
    def metrics(self) -> dict[str, float]:
        """Averages over the completions, for logs; what is not known is left out."""
        found = {**self.components, "reward_mean": self.mean, "reward_std": self.std, "contrast_std": self.contrast_std}
        found["share_empty"] = self.is_empty
        if self.is_truncated is not None:
            found["share_cut"] = self.is_truncated
        if self.is_below_reference is not None:
            found["share_below_reference"] = self.is_below_reference[self.is_applicable]
        averages = {name: float(values.double().nanmean()) for name, values in found.items()}
        return {name: average for name, average in averages.items() if average == average}

    def spread(self, values: Tensor) -> Tensor:
        """Values [n] of the applicable completions at their places, [N] float64 with NaN for the others."""
        return _placed(values, self.is_applicable)


def measures_of(
    worth: UtilityModel,
    scores: UtilityScores,
    *,
    group: Tensor,
    is_applicable: Tensor,
    is_empty: Tensor,
    is_truncated: Tensor | None,
    truncation_penalty: float,
) -> RewardMeasures:
    """Figures of N completions.

    Args:
        worth: what scored them.
        scores: of the applicable ones.
        group: [N] int64, the prompt of each.
        is_applicable: [N] booleans.
        is_empty: [N] booleans.
        is_truncated: [N] booleans; None where it is not known.
        truncation_penalty: what the value of a completion that was cut loses.
    """

    def placed(values: Tensor) -> Tensor:
        return _placed(values, is_applicable)

    nothing = torch.full((len(group),), torch.nan, dtype=torch.float64)
    if scores.rewards is None:
        return RewardMeasures(
            nothing, nothing, nothing, nothing, {}, None, is_applicable, is_empty, is_truncated, group, None, None
        )
    posterior = _posterior(scores) if _knows_variance(worth) else None
    before = scores.steps[-2]
    mean, std = before.mean, before.std
    if std is None and posterior is not None:  # parts that end in rules of their own
        mean, std = posterior.mean, posterior.variance.sqrt()
    return RewardMeasures(
        placed(scores.value) - (0 if is_truncated is None else truncation_penalty * is_truncated),
        placed(mean),
        nothing if posterior is None or std is None else placed(std),
        nothing if posterior is None else placed(_contrast_std(posterior)),
        {name: placed(rewards.mean) for name, rewards in scores.rewards.rewards.items()},
        _is_below_reference(scores, is_applicable),
        is_applicable,
        is_empty,
        is_truncated,
        group,
        posterior,
        scores.embedding,
    )


def numbers(values: Tensor) -> list[float | None]:
    """Values as a trainer takes them, None where there is none."""
    return [None if value != value else value for value in values.tolist()]


def _placed(values: Tensor, where: Tensor) -> Tensor:
    found = torch.full((len(where),), torch.nan, dtype=torch.float64)
    found[where] = values.double().cpu()
    return found


def _knows_variance(worth: UtilityModel) -> bool:
    """Models without a posterior count as certain; an ensemble of several has the variance between them."""
    is_ensemble = any(
        isinstance(node, Combined) and node.combination.name == "ensemble" for node in worth.utility.nodes()
    )
    return is_ensemble or any(scorer.has_variance for scorer in worth.scorers.values())


def _posterior(scores: UtilityScores) -> RewardPosterior | None:
    try:
        return scores.posterior
    except UnsupportedError:
        return None


def _contrast_std(posterior: RewardPosterior) -> Tensor:
    try:
        return contrast_variance(posterior).sqrt()
    except UnsupportedError:
        return torch.full((len(posterior),), torch.nan)


def _is_below_reference(scores: UtilityScores, is_applicable: Tensor) -> Tensor | None:
    assert scores.fitted is not None
    assert scores.rewards is not None
    centered = {
        str(node) for node in scores.fitted.utility.nodes() if isinstance(node, Piped) and isinstance(node.step, Center)
    }
    below = [step.mean < 0 for step in scores.steps if step.source in centered]
    if not below:
        rewards = scores.rewards.rewards
        below = [
            rewards[name].mean < level for name, level in scores.reference_mean.items() if bool(level.isfinite().any())
        ]
    if not below:
        return None
    found = torch.zeros_like(is_applicable)
    found[is_applicable] = torch.stack(below).any(0).cpu()
    return found
