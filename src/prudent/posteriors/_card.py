"""The model card of a reward model with a posterior: what was there before, and a section on the posterior."""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from prudent.models import RewardModel
from prudent.posteriors._heads import HeadsPosterior

if TYPE_CHECKING:
    from prudent.posteriors._fit import FitResult
    from prudent.posteriors._held_out import HeldOutFigures

__all__ = ["card_with_posterior", "write_card"]

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
    entries = posterior.state()[1]
    if entries["kind"] == "last_layer":
        head = "refitted to the posterior mode" if entries["head"] == "refit" else "kept as trained"
        about = f"{entries['pooling']} pooling, head {head}"
        prior = f"{entries['prior_precision']:.4g}" + (" in standardised features" if entries["standardized"] else "")
    elif isinstance(posterior, HeadsPosterior):
        drawn = "prompts drawn with replacement" if posterior.bootstrap else "the same prompts"
        about = (
            f"{posterior.num_members} {posterior.architecture} heads, {posterior.pooling} pooling, each on {drawn}; "
            "their spread, ddof 1, is the variance"
        )
        prior = f"{posterior.prior_precision:.4g} in standardised features"
    else:
        about = f"Laplace over the {entries['num_parameters']:,} weights of LoRA matrices and head"
        stated = entries["prior_precision"]
        prior = f"{min(stated):.4g} to {max(stated):.4g} by layer" if isinstance(stated, list) else f"{stated:.4g}"
    accuracy = f"accuracy on the pairs fitted on {result.train_accuracy:.3f}"
    if isinstance(posterior, HeadsPosterior):
        figures = [f"- prior precision {prior}", f"- {accuracy}"]
    else:
        figures = [
            f"- prior precision {prior}, posterior temperature {posterior.posterior_temperature:g}",
            f"- log marginal likelihood {posterior.log_marginal_likelihood:.4g} nats, {accuracy}",
        ]
    unit = "units of score" if result.num_responses is not None and result.held_out is None else "logits"
    fitted_on = f"{result.num_pairs:,} pairs" if result.num_responses is None else f"{result.num_responses:,} responses"
    lines = [
        _HEADING,
        "",
        f"Kind `{posterior.kind}` ({about}), fitted on {fitted_on} of "
        f"`{Path(data).name}` by prudent; read it with `prudent.posteriors.load_posterior`.",
        "",
        *figures,
        *(_held_out(result.held_out) if result.held_out else []),
        *(f"- {note}" for note in result.notes),
        "",
        f"Variances are in squared {unit}. A pair likelihood identifies differences between responses to one prompt "
        "alone: compare responses within a prompt.",
        "",
    ]
    return existing.partition(_HEADING)[0].rstrip() + "\n\n" + "\n".join(lines)


def write_card(folder: Path, source: Path | None, model: RewardModel, result: "FitResult", data: str) -> None:
    """Write the README.md of a folder that `fit` makes.

    Args:
        folder: exists.
        source: folder of the model fitted to; None for a loaded one.
        model: that was fitted to.
        result: what was fitted.
        data: what it was fitted on.
    """
    place = None if source is None else source / "README.md"
    # A card that prudent did not write speaks of another model, the base or one made elsewhere.
    existing = place.read_text(encoding="utf-8") if place is not None and place.is_file() else ""
    card = card_with_posterior(
        existing if "- prudent\n" in existing else None,
        result,
        library="peft" if hasattr(model.model, "peft_config") else "transformers",
        base=model.base_name_and_revision()[0],
        data=data,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _held_out(figures: "HeldOutFigures") -> list[str]:
    lines = [
        f"- {figures.num_pairs:,} held-out pairs of `{Path(figures.data).name}`: accuracy {figures.accuracy:.3f}, "
        f"negative log-likelihood {figures.nll:.4f} nats by the whole posterior, {figures.nll_map:.4f} by the mean, "
        f"calibration error {figures.ece:.3f}"
    ]
    if figures.prior_precision_scale is None:
        return lines
    choice = f"these pairs prefer {figures.prior_precision_scale:.2g} times this prior precision"
    if figures.chose_prior:
        choice = (
            "these pairs chose the prior precision, so their figures flatter it: "
            f"{figures.prior_precision_scale:.2g} times that of highest evidence"
        )
    return [*lines, f"- {choice} ({figures.nll_scaled:.4f} against {figures.nll_unscaled:.4f} nats)"]
