"""`prudent train --posterior`: a posterior for the model that was just trained, in the same folder."""

from typing import TYPE_CHECKING, Any

import typer

from prudent.cli._fit import LORA_KINDS, PosteriorName
from prudent.cli._fit_words import describe

if TYPE_CHECKING:
    from prudent.training import TrainingConfig

__all__ = ["fit_trained", "require_fittable", "saved_by_train"]


def require_fittable(posterior: PosteriorName | None, *, streaming: bool, lora: bool) -> None:
    """What cannot be fitted is said before hours of training."""
    if posterior is not None and streaming:
        raise typer.BadParameter(
            "a posterior is fitted to pairs held in memory; leave --streaming or --posterior out, and run `prudent fit`"
            " on a file of the pairs afterwards"
        )
    if posterior is PosteriorName.quantile:
        raise typer.BadParameter(
            "quantile heads are fitted to absolute scores, not to the pairs trained on; run `prudent fit --posterior"
            " quantile` on pools with gold afterwards"
        )
    if posterior in LORA_KINDS and not lora:
        raise typer.BadParameter(
            f"posterior {posterior.value} is about LoRA weights, which --full does not train; take last_layer or heads"
        )


def saved_by_train(output: str, posterior: PosteriorName, *, overwrite: bool) -> tuple[dict[str, Any] | None, bool]:
    """The posterior of this kind that lies in the output folder, and whether a model trained in the same way can stay.

    Args:
        output: folder of the model; it need not exist.
        posterior: asked for.
        overwrite: a posterior of another kind may be replaced.

    Raises:
        PosteriorError: a posterior of another kind is there, and not to be replaced.
    """
    from prudent.errors import PosteriorError
    from prudent.posteriors import moved_head, saved_posterior

    fitted = saved_posterior(output)
    if fitted is None:
        return None, True  # a run that was killed after training lacks its posterior alone
    if fitted["kind"] == posterior.value:
        return fitted, False
    if not overwrite:
        raise PosteriorError(
            f"{output} holds a posterior {fitted['kind']}; fit another kind to a model trained without one "
            f"(prudent fit --posterior {posterior.value} --output ...), or --overwrite this one"
        )
    return None, not moved_head(fitted)  # what moved the head has to be trained again


def fit_trained(
    output: str, data: str, posterior: PosteriorName, config: "TrainingConfig", source: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Fit to the model that was trained, in its own folder."""
    from prudent.errors import PrudentError
    from prudent.posteriors import fit

    try:
        result = fit(
            output,
            data,
            output,
            posterior=posterior.value,
            max_length=config.max_length,
            seed=config.seed,
            overwrite=True,
            **source,
        )
    except PrudentError as error:
        raise type(error)(f"the model is trained and lies in {output}, its posterior is not fitted: {error}") from error
    return result.to_dict(), describe(result)
