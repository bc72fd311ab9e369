"""The model card of a reward model with a posterior: what was there before, and a section on the posterior."""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from prudent.posteriors._fit import FitResult

__all__ = ["card_with_posterior"]

_HEADING = "## Posterior over rewards"


def card_with_posterior(existing: str | None, result: "FitResult", *, library: str, base: str | None, data: str) -> str:
    """The README.md of a folder that `fit` writes.

    Args:
        existing: the card of the model fitted on, if it was written by prudent; its own posterior section is replaced.
        result: what was fitted.
        library: `peft` or `transformers`.
        base: name of the base model.
        data: what the posterior was fitted on.
    """
    if existing is None:
        header: dict[str, object] = {
            "library_name": library,
            "pipeline_tag": "text-classification",
            "tags": ["reward-model", "prudent"],
        }
        # The hub refuses names that are paths.
        if base is not None and not Path(base).exists():
            header["base_model"] = base
        existing = f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# Reward model with a posterior\n"
    if "- uncertainty\n" not in existing:
        existing = existing.replace("- prudent\n", "- prudent\n- uncertainty\n", 1)
    posterior = result.posterior
    head = "refitted to the posterior mode" if posterior.head == "refit" else "kept as trained"
    lines = [
        _HEADING,
        "",
        f"Kind `{posterior.kind}` ({posterior.pooling} pooling, head {head}), fitted on {result.num_pairs:,} pairs of "
        f"`{Path(data).name}` by prudent; read it with `prudent.posteriors.load_posterior`.",
        "",
        f"- prior precision {posterior.prior_precision:.4g}"
        + (" in standardised features" if posterior.standardized else "")
        + f", posterior temperature {posterior.posterior_temperature:g}",
        f"- log marginal likelihood {posterior.log_marginal_likelihood:.4g} nats, accuracy on the pairs fitted on "
        f"{result.train_accuracy:.3f}",
        *(f"- {note}" for note in result.notes),
        "",
        "Variances are in squared logits. A pair likelihood identifies differences between responses to one prompt "
        "alone: compare responses within a prompt.",
        "",
    ]
    return existing.partition(_HEADING)[0].rstrip() + "\n\n" + "\n".join(lines)
