"""Whether rewards of several models can be taken as logits of one preference as they are."""

from collections.abc import Sequence
from typing import Any

from prudent.errors import PosteriorError
from prudent.posteriors._ensemble import ScoredMember
from prudent.posteriors._heads import HeadsPosterior
from prudent.posteriors._last_layer import LastLayerPosterior
from prudent.posteriors._protocol import Posterior
from prudent.posteriors._store import saved_posterior
from prudent.posteriors._training_record import training_settings

__all__ = ["require_logits"]


def require_logits(members: Sequence[ScoredMember], folders: Sequence[str]) -> None:
    """Make sure that members come from one base model, and that each was trained or fitted to logits.

    Args:
        members: loaded.
        folders: where each was loaded from.

    Raises:
        PosteriorError: one is not known to be so; it is named, with what to do.
    """
    origins = []
    for member, folder in zip(members, folders, strict=True):
        settings = training_settings(folder)
        if (reason := _no_logits(member.scorer.posterior, settings)) is not None:
            raise PosteriorError(f"member {member.name} {reason}; calibrate the members on preferences by data")
        origins.append(_origin(member, folder, settings))
        if origins[-1] != origins[0]:
            raise PosteriorError(
                f"members {members[0].name} and {member.name} come from different models ({_told(origins[0])} and "
                f"{_told(origins[-1])}), so their rewards have scales of their own; calibrate them on preferences by "
                "data"
            )


def _no_logits(posterior: Posterior, settings: dict[str, Any]) -> str | None:
    if isinstance(posterior, HeadsPosterior):
        if posterior.kind == "classification":
            return "has heads fitted by classification, so its rewards are no logits of a preference"
        if posterior.kind == "quantile" and posterior.logit_scale == 1.0:
            return "has quantile heads, so its rewards are in units of the scores fitted on, no logits"
        return None
    if isinstance(posterior, LastLayerPosterior) and posterior.head == "refit":
        return None
    if not settings:
        return "has no record of its training by prudent, so whether its rewards are logits is not known"
    if settings.get("loss", "bradley_terry") != "bradley_terry":
        return f"was trained by {settings['loss']}, so its rewards are no logits of a preference"
    return None


def _origin(member: ScoredMember, folder: str, settings: dict[str, Any]) -> tuple[str | None, str | None]:
    """The model that a member was trained or fitted from, and the revision of its base, as far as they are known."""
    name, revision = member.scorer.model.base_name_and_revision()
    adapted = hasattr(member.scorer.model.model, "peft_config")
    if "model" in settings:
        return settings["model"], revision if adapted else None
    saved = saved_posterior(folder)
    if saved is not None and not adapted:
        return saved["base_model_name_or_path"], saved["base_revision"]
    return name, revision


def _told(origin: tuple[str | None, str | None]) -> str:
    name, revision = origin
    return f"{name}" if revision is None else f"{name} at {revision}"
