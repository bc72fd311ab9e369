"""What is done about an uncertain reward when a policy is moved: the arms of a comparison, by name."""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["ARMS", "AdvantageWeight", "Arm", "KlForm", "parse_arm"]

KlForm = Literal["constant", "exact", "in_reward"]
"""How the KL penalty weighs responses: all alike, by their variance with the exact gradient, or by their variance as a
part of the reward, without the gradient's last term."""

AdvantageWeight = Literal["none", "sign", "signcert"]
"""What the reward's part of advantages is multiplied by: nothing, how sure their sign is under the posterior, or
SignCert's weight. The KL penalty's part stays whole."""


@dataclass(frozen=True)
class Arm:
    """One way of moving a policy by an uncertain reward.

    Attributes:
        utility: what a response is worth, as `parse_utility` reads it; `{kl_coef}` stands for the coefficient.
        kl_form: how the KL penalty weighs responses.
        advantage_weight: what the reward's part of advantages is multiplied by; the KL penalty holds whatever it is.

    Raises:
        ValueError: a field is none of what it can be.
    """

    utility: str = "mean"
    kl_form: KlForm = "constant"
    advantage_weight: AdvantageWeight = "none"

    def __post_init__(self) -> None:
        for name, kinds in (("kl_form", KlForm), ("advantage_weight", AdvantageWeight)):
            known = get_args(kinds)
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    def utility_at(self, kl_coef: float) -> str:
        """The utility, tied to the coefficient of the KL penalty where it depends on it.

        Example:
            >>> ARMS["entropic"].utility_at(0.05)
            'entropic(kl_coef=0.05)'
        """
        return self.utility.replace("{kl_coef}", f"{kl_coef:g}")


ARMS: dict[str, Arm] = {
    "mean": Arm(),
    "lcb": Arm("lcb_std(1)"),
    "entropic": Arm("entropic(kl_coef={kl_coef})"),
    "lsc": Arm("center | log_sigmoid | mean"),
    "bounded": Arm("center(mean) | sigmoid | mean"),
    "worst": Arm("worst"),
    "variance_kl": Arm(kl_form="exact"),
    "variance_kl_in_reward": Arm(kl_form="in_reward"),
    "sign": Arm(advantage_weight="sign"),
    "signcert": Arm(advantage_weight="signcert"),
}
"""`mean`: the posterior mean, as anybody would train. `lcb`: mean minus std. `entropic`: the adversary's KL priced
like the policy's (2606.09073). `lsc`: log-sigmoid of the reward over the prompt's reference (2402.00742). `bounded`:
its sigmoid (PAR, 2502.18770). `worst`: the least of an ensemble's members (2310.02743). `variance_kl`: the KL penalty
weighted by the variance (2410.23726), `variance_kl_in_reward` the same without the gradient's last term. `sign` and
`signcert`: the reward's advantages weighted by how sure their sign is, in the posterior's metric or the identity's
(2604.02986), against a KL penalty in full."""


def parse_arm(name: str) -> Arm:
    """The arm of a name.

    Raises:
        ValueError: there is none; the message names those there are.

    Example:
        >>> parse_arm("variance_kl").kl_form
        'exact'
    """
    if name not in ARMS:
        raise ValueError(f"there is no arm {name!r}; there is {', '.join(ARMS)}")
    return ARMS[name]
