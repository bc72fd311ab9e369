"""How averse to risk to be, without tuning."""

import math

__all__ = ["matched_risk_aversion"]


def matched_risk_aversion(n: int, spread: float) -> float:
    """The risk aversion that goes with picking one of n, in 1/logits.

    In KL-regularized learning an adversary that pays KL at the policy's own price makes the reward entropic with
    a = 1 / kl_coef. Best-of-n has no kl_coef, but a divergence, KL(n) = ln n - (n - 1)/n. The policy that is tilted by
    exp(r / kl_coef), where rewards are normal with standard deviation s, has the divergence s^2 / (2 kl_coef^2);
    setting the two equal gives a = sqrt(2 KL(n)) / s. It falls as rewards are spread out: a * s, the strength in units
    that do not change with the scale of rewards, depends on n alone (1.3 at n = 5, 2.5 at 64, 3.4 at 1024).

    Args:
        n: candidates that the pick is made from, at least 2.
        spread: standard deviation of the rewards (posterior means) of a prompt's candidates, over prompts in the root
            mean square, positive, in logits.

    Returns:
        a for `entropic(a)`; `lcb_var(a / 2)` is the same rule on Gaussian posteriors.

    Raises:
        ValueError: n is below 2 or the spread is not positive and finite.

    References:
        A Unifying Lens on Reward Uncertainty in RLHF, https://arxiv.org/abs/2606.09073, 2026 (a = 1 / kl_coef).

    Example:
        >>> round(matched_risk_aversion(64, spread=2.0), 4)
        1.2599
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}: picking one of one takes no risk")
    if not (math.isfinite(spread) and spread > 0):
        raise ValueError(f"spread must be positive and finite, got {spread}")
    return math.sqrt(2 * (math.log(n) - (n - 1) / n)) / spread
