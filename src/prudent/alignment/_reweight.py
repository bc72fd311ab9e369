"""Weights over stored candidates: where RLHF would go, if the policy could only choose among them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.alignment._arms import Arm, KlForm
from prudent.alignment.bandit import kl_divergence, kl_optimum, weighted_kl_optimum
from prudent.errors import DataError
from prudent.rewards import index_groups

__all__ = ["Reweighted", "check_strength", "reweight"]

_DECADES = 9
_PER_DECADE = 2
_HALVINGS = 50
_TOLERANCE = 1e-6
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Reweighted:
    """A policy over the candidates of each prompt.

    Attributes:
        weight: [N] float64, sums to 1 over the candidates of a prompt.
        kl: [B] float64, divergence from uniform weights in nats, at most the logarithm of the number of candidates.
        kl_coef: [B] float64, coefficient of the KL penalty whose optimum the weights are.
        effective_sample_size: [B] float64, 1 / sum of squared weights: from 1 to the number of candidates.
        is_reached: [B] bool, whether the weights have the KL that was asked for; all where a coefficient was.
        prompt_id: [B] int64, the prompts, ascending.
    """

    weight: Tensor
    kl: Tensor
    kl_coef: Tensor
    effective_sample_size: Tensor
    is_reached: Tensor
    prompt_id: Tensor


def reweight(
    utility: Tensor,
    group: Tensor,
    *,
    target_kl: float | None = None,
    kl_coef: float | None = None,
    per_prompt: bool = False,
    kl_weight: Tensor | None = None,
    kl_form: KlForm = "constant",
) -> Reweighted:
    """Weigh stored candidates by what they are worth, as far from the policy that wrote them as is allowed.

    The candidates of a prompt are draws from one policy, so that uniform weights stand for it. The weights maximize
    E[u] - kl_coef * KL: they are what RLHF with a perfect optimizer would tend to, if it could only choose among them.
    n candidates show a KL of at most ln n, less where several share the highest utility.

    Args:
        utility: [N] what each candidate is worth, finite, on the CPU.
        group: [N] integer prompt ids.
        target_kl: divergence to reach, above 0, in nats: on average over prompts, by one coefficient for all, as RLHF
            has it, or for each prompt. Of several coefficients that give it, the largest is taken.
        kl_coef: coefficient of the KL penalty, above 0; instead of `target_kl`.
        per_prompt: reach `target_kl` for each prompt, by a coefficient of its own. A prompt that cannot reach it comes
            as near as it can (with one form of the penalty that is to say all weight on the best candidates), and is
            marked.
        kl_weight: [N] above 0, how strongly the penalty holds each candidate, as from `kl_weights`; for the weighted
            forms.
        kl_form: "constant"; or "exact" and "in_reward", which `weighted_kl_optimum` explains. With "exact" small
            divergences may be out of reach.

    Returns:
        The weights and how far they went.

    Raises:
        DataError: a utility is not finite, or no prompt (without `per_prompt`: not their average) can reach the
            target; the message says what can be.
        ValueError: neither or both of `target_kl` and `kl_coef`, one that is not above 0, or weights where there is
            no use for them, or none where there is.

    Example:
        >>> import torch
        >>> utility, group = torch.tensor([0.0, 1.0, 2.0, 0.0, 4.0]), torch.tensor([0, 0, 0, 1, 1])
        >>> found = reweight(utility, group, target_kl=0.2)
        >>> [round(one, 3) for one in found.weight.tolist()], round(found.kl.mean().item(), 6)
        ([0.188, 0.308, 0.505, 0.122, 0.878], 0.2)
    """
    check_strength(target_kl=target_kl, kl_coef=kl_coef, per_prompt=per_prompt, kl_form=kl_form)
    _check(utility, group, kl_weight, kl_form)
    index = index_groups(group)
    size = int(index.counts.max()) if len(index.counts) else 0
    # prompts as rows of one matrix, short ones filled up with candidates that the policy never gives
    own = torch.arange(size, device=group.device) < index.counts[:, None]
    order = torch.arange(len(group), device=group.device) if index.order is None else index.order
    rows = utility.new_zeros(own.shape, dtype=torch.float64)
    rows[own] = utility[order].double()
    reference = own / index.counts[:, None].double()
    held = torch.ones_like(rows)
    if kl_weight is not None:
        held[own] = kl_weight[order].double()

    def policy(coefficient: Tensor) -> Tensor:
        if kl_form == "constant":
            return kl_optimum(rows, reference, coefficient)
        return weighted_kl_optimum(rows, held, reference, coefficient, kl_form=kl_form)

    if kl_coef is not None:
        coefficient = torch.full((len(index.ids), 1), kl_coef, dtype=torch.float64)
        is_reached = torch.ones(len(index.ids), dtype=torch.bool)
    else:
        assert target_kl is not None
        spread = (rows.masked_fill(~own, -torch.inf).amax(1) - rows.masked_fill(~own, torch.inf).amin(1))[:, None]
        if not per_prompt:
            spread = spread.amax(0, keepdim=True)
        spread = torch.where(spread > 0, spread, 1.0)

        def divergence(coefficient: Tensor) -> Tensor:
            found = kl_divergence(policy(coefficient), reference)[:, None]
            return found if per_prompt else found.mean(0, keepdim=True)

        coefficient, is_reached = _searched(divergence, target_kl, spread, kl_form, index.counts, per_prompt)
        coefficient = coefficient.expand(len(index.ids), 1)
        is_reached = is_reached[:, 0].expand(len(index.ids))
    found = policy(coefficient)
    weight = torch.empty(len(group), dtype=torch.float64)
    weight[order] = found[own]
    return Reweighted(
        weight=weight,
        kl=kl_divergence(found, reference),
        kl_coef=coefficient[:, 0].clone(),
        effective_sample_size=1 / found.square().sum(1),
        is_reached=is_reached.clone(),
        prompt_id=index.ids,
    )


def _searched(
    divergence: Callable[[Tensor], Tensor],
    target: float,
    scale: Tensor,
    kl_form: KlForm,
    counts: Tensor,
    per_prompt: bool,
) -> tuple[Tensor, Tensor]:
    """The largest coefficient of each row with the target divergence, or that which comes nearest, and whether it has.

    With equal weights the divergence falls with the coefficient. With others it need not, so that the first crossing
    on a grid, from large coefficients to small ones, is what is halved.

    Raises:
        DataError: no row reaches the target.
    """
    steps = torch.arange(-_DECADES * _PER_DECADE, _DECADES * _PER_DECADE + 1).flip(0)
    grid = [scale * 10.0 ** (step / _PER_DECADE) for step in steps.tolist()]
    values = torch.cat([divergence(coefficient) for coefficient in grid], 1)
    coefficients = torch.cat(grid, 1)
    is_above = values >= target
    crosses = is_above[:, 1:] != is_above[:, :-1]
    first = crosses.int().argmax(1, keepdim=True)
    high, low = coefficients.gather(1, first), coefficients.gather(1, first + 1)
    side = is_above.gather(1, first)
    for _ in range(_HALVINGS):
        middle = (high * low).sqrt()
        same = (divergence(middle) >= target) == side
        high, low = torch.where(same, middle, high), torch.where(same, low, middle)
    nearest = coefficients.gather(1, (values - target).abs().argmin(1, keepdim=True))
    found = torch.where(crosses.any(1, keepdim=True), high, nearest)
    is_reached = (divergence(found) - target).abs() <= _TOLERANCE * target + _ROUNDING
    if not bool(is_reached.any()):
        whose = "the KL of a prompt" if per_prompt else "the mean KL"
        lowest = "" if kl_form == "constant" else f"at least {values.min().item():.4g} and "
        advice = "; the forms constant and in_reward start at 0" if kl_form == "exact" else ""
        raise DataError(
            f"no KL coefficient gives a KL of {target:g} nats: {whose} is {lowest}at most {values.max().item():.4g} "
            f"with {_counted(counts)} candidates a prompt (ln n, less where the best tie), by coefficients from "
            f"{coefficients.min().item():.3g} to {coefficients.max().item():.3g}{advice}"
        )
    return found, is_reached


def _counted(counts: Tensor) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def check_strength(*, target_kl: float | None, kl_coef: float | None, per_prompt: bool, kl_form: KlForm) -> None:
    """Refuse what `reweight` refuses of how far to move, before anything is read.

    Raises:
        ValueError: as for `reweight`.
    """
    if (target_kl is None) == (kl_coef is None):
        raise ValueError("give either target_kl or kl_coef")
    for name, value in (("target_kl", target_kl), ("kl_coef", kl_coef)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a finite number above 0, got {value}")
    if per_prompt and target_kl is None:
        raise ValueError("per_prompt is for target_kl: with kl_coef all prompts have the same coefficient")
    Arm(kl_form=kl_form)  # its name is checked there


def _check(utility: Tensor, group: Tensor, kl_weight: Tensor | None, kl_form: KlForm) -> None:
    if utility.dim() != 1 or group.shape != utility.shape or len(utility) == 0:
        raise ValueError(
            f"utility and group must be vectors of one length, not empty; got {list(utility.shape)} and "
            f"{list(group.shape)}"
        )
    if (kl_form == "constant") != (kl_weight is None):
        raise ValueError("kl_weight is for the kl_forms exact and in_reward, which need it")
    if kl_weight is not None and kl_weight.shape != utility.shape:
        raise ValueError(f"kl_weight must have shape {list(utility.shape)}, got {list(kl_weight.shape)}")
    if kl_weight is not None and not bool((kl_weight.isfinite() & (kl_weight > 0)).all()):
        row = int((~(kl_weight.isfinite() & (kl_weight > 0))).nonzero()[0])
        raise ValueError(f"kl_weight must be finite and above 0, got {kl_weight[row].item()} in row {row}")
    wrong = (~utility.isfinite()).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{len(wrong)} of {len(utility)} candidates have no finite utility, the first in row {row} (prompt "
            f"{int(group[row])}); leave them out"
        )
