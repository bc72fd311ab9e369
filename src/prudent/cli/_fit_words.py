"""What `prudent fit` made, in words."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prudent.posteriors import FitResult

__all__ = ["describe"]


def describe(result: "FitResult", prior_precision: str = "evidence") -> str:
    """What was fitted, for a person: a line on the fit, one on held-out pairs, one on counts, one a note.

    Args:
        result: of `prudent.posteriors.fit`.
        prior_precision: as it was asked for.
    """
    from prudent.posteriors import HeadsPosterior

    posterior, figures = result.posterior, result.held_out
    prior = posterior.state()[1]["prior_precision"]
    if figures is None or figures.prior_precision_scale is None:
        by = "as given" if prior_precision not in ("evidence", "held_out") else "by evidence"
        told = f"prior precision {_amount(prior)} {by}"
    else:
        chosen = prior_precision == "held_out"
        # The figures hold the factor from one to the other; the posterior holds the one that was chosen.
        factor = figures.prior_precision_scale
        unscaled, scaled = (1 / factor, 1.0) if chosen else (1.0, factor)
        first = "as given" if prior_precision not in ("evidence", "held_out") else "by evidence"
        told = (
            f"prior precision {_amount(prior, unscaled)} {first} ({figures.nll_unscaled:.4f} nats a held-out pair), "
            f"{_amount(prior, scaled)} by held-out pairs ({figures.nll_scaled:.4f} nats), "
            f"of which the {'second' if chosen else 'first'} is saved"
        )
    fitted_on = f"{result.num_pairs:,} pairs" if result.num_responses is None else f"{result.num_responses:,} responses"
    if isinstance(posterior, HeadsPosterior):
        what = f"posterior {posterior.kind} of {fitted_on}, {posterior.num_members} {posterior.architecture} members"
        told = f"{what}: {told}"
    else:
        evidence = f"log marginal likelihood {posterior.log_marginal_likelihood:.4g} nats"
        told = f"posterior {posterior.kind} of {fitted_on}: {told}; {evidence}"
    of = "these pairs" if result.num_responses is None else f"their {result.num_pairs:,} pairs"
    parts = [f"{told}, accuracy on {of} {result.train_accuracy:.3f}"]
    if figures is not None:
        parts.append(
            f"on {figures.num_pairs:,} held-out pairs accuracy {figures.accuracy:.3f}, negative log-likelihood "
            f"{figures.nll:.4f} nats ({figures.nll_map:.4f} by the mean alone), calibration error {figures.ece:.3f}"
        )
    remarks = {
        f"{result.num_truncated:,} responses cut": result.num_truncated,
        f"{result.num_prompt_truncated:,} prompts cut": result.num_prompt_truncated,
        f"{result.num_skipped:,} pairs skipped as not valid": result.num_skipped,
    }
    counts = "; ".join(remark for remark, holds in remarks.items() if holds)
    return "\n".join([*parts, *([counts] if counts else []), *(f"note: {note}" for note in result.notes)])


def _amount(prior: Any, factor: float = 1.0) -> str:
    """A prior precision, or the range of those of several layers."""
    if isinstance(prior, list):
        return f"{factor * min(prior):.4g} to {factor * max(prior):.4g}"
    return f"{factor * prior:.4g}"
