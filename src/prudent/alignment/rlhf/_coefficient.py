"""The coefficient of the KL penalty in TRL's trainers, made to differ between responses."""

from typing import Literal

import torch
from torch import Tensor

from prudent.errors import UnsupportedError

__all__ = ["ResponseCoefficient"]


class ResponseCoefficient(float):
    """A KL coefficient with a weight per response, put where TRL's trainers keep a number (`self.beta`).

    TRL asks its coefficient whether it is zero, and multiplies the KL of the responses by it once: in RLOO where the
    penalty is taken from the rewards, in GRPO where it is added to the loss. This is a number when asked, and weighs
    responses when multiplied, so that no line of TRL's is copied here. `take` finds out whether the product was made:
    TRL may compute its penalty in another way one day, and the weights would silently do nothing. What was taken from
    the rewards stays in `penalty`. With weights 1 `in_reward` gives TRL's own numbers to the last bit. It
    belongs to one trainer, and can be neither copied nor pickled.

    With kl_coef the number itself, w the weights and l the KL of the responses (log-ratios in RLOO), a product is

    - `exact`: kl_coef (w l + w - 1). Where b = kl_coef w depends on the response, E[R - b log(pi / pi0)] has
      the gradient E[(R - b log(pi / pi0) - b) grad log pi]: the derivative of the log-ratio leaves -b, which has a mean
      of 0 only where b is constant. As a shift that all responses share changes no advantage, kl_coef is added back,
      and a constant b gives TRL's numbers to the last bit.
    - `in_reward`: kl_coef w l, the penalty weighted as TRL subtracts it, without that term.
    - `in_loss`: kl_coef w l for l [n, T], the KL of each token, weighted by response.

    Args:
        kl_coef: the coefficient, > 0.
        form: as above.

    Attributes:
        penalty: [n] the last product of `exact` or `in_reward`, None until it is made.

    Raises:
        ValueError: `kl_coef` is not positive: there is nothing to weigh.

    Example:
        >>> import torch
        >>> coefficient = ResponseCoefficient(0.5, "exact")
        >>> coefficient.give(torch.tensor([0.5, 1.5]))
        >>> (coefficient * torch.tensor([2.0, 2.0])).tolist()
        [0.25, 1.75]
        >>> coefficient.take(), coefficient == 0.0
        (0.5, False)
    """

    def __new__(cls, kl_coef: float, form: Literal["exact", "in_reward", "in_loss"]) -> "ResponseCoefficient":
        """The number; see the class."""
        if not kl_coef > 0:
            raise ValueError(f"weights of the KL penalty need its coefficient (TRL's beta) to be > 0, got {kl_coef}")
        return super().__new__(cls, kl_coef)

    def __init__(self, kl_coef: float, form: Literal["exact", "in_reward", "in_loss"]) -> None:
        self._form = form
        self._weights: Tensor | None = None
        self._products = 0
        self._effective = kl_coef
        self.penalty: Tensor | None = None

    def give(self, weights: Tensor) -> None:
        """Set the weights [n] of the responses whose KL comes next."""
        self._weights, self._products, self.penalty = weights, 0, None

    def take(self) -> float:
        """Take the weights back, once the trainer must have used them.

        Returns:
            The coefficient of a constant penalty of the same size: kl_coef times the mean of the weights, in proportion
            to each response's absolute KL.

        Raises:
            UnsupportedError: TRL multiplied by this not once, but never or more often.
        """
        self._weights = None
        if self._products != 1:
            raise UnsupportedError(
                f"TRL used its KL coefficient {self._products} times where once was due, so nothing was weighted: "
                "this version of TRL computes the penalty in another way. Install trl 1.16, or train without weights "
                '(kl_form="constant", advantage_weight="none")'
            )
        return self._effective

    def __mul__(self, kl: Tensor) -> Tensor:  # type: ignore[override]  # of a float, the one operand TRL gives it
        """The penalty of each response (or token) from its KL, [n] or [n, T]."""
        weights = self._weights
        if weights is None or len(weights) != len(kl) or (kl.dim() == 2) != (self._form == "in_loss"):
            known = "none" if weights is None else f"{len(weights)}, one a response"
            raise UnsupportedError(
                f"TRL multiplied its KL coefficient with values of shape {tuple(kl.shape)}, for which there are no "
                f"weights (there are {known}): this version of TRL computes the penalty in another way. Install trl "
                '1.16, or train without weights (kl_form="constant", advantage_weight="none")'
            )
        self._products += 1
        weights = weights.to(device=kl.device, dtype=kl.dtype)
        if self._form == "in_loss":
            return float(self) * (weights[:, None] * kl)
        self._effective = self._constant_of_same_size(weights, kl)
        weighted = weights * kl
        self.penalty = float(self) * (weighted if self._form == "in_reward" else weighted + (weights - 1))
        return self.penalty

    def _constant_of_same_size(self, weights: Tensor, kl: Tensor) -> float:
        size = torch.where(weights.isnan(), 0.0, kl.abs()).double()
        total = size.sum().item()
        return float(self) * (weights.nan_to_num() * size).sum().item() / total if total > 0 else float(self)
