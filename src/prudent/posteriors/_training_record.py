"""What prudent's training left beside a model, and what later fits passed on of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prudent.errors import PosteriorError
from prudent.posteriors._store import moved_head, saved_posterior

__all__ = ["passed_on", "training_settings"]

_PASSED_ON = ("model", "data", "loss", "center_rewards_coefficient")


def training_settings(model: str | Path | None) -> dict[str, Any]:
    """The settings that a model was trained with; nothing where prudent did not train it, or not here.

    A model that `fit` made has those of the model that it was fitted to, `loss` being that of its head as it is now.

    Args:
        model: folder or hub name; None for a model in memory.

    Raises:
        PosteriorError: the record is damaged.
    """
    if model is None:
        return {}
    try:
        saved = saved_posterior(model) or {}
    except PosteriorError:
        saved = {}  # to be fitted again
    record = Path(model) / "training_result.json"
    try:
        settings = dict((saved.get("fitted_on") or {}).get("training") or {})
        if not settings and record.is_file():
            settings = dict(json.loads(record.read_text(encoding="utf-8"))["settings"])
        if saved and moved_head(saved):
            settings["loss"] = "classification" if saved["kind"] == "classification" else "bradley_terry"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PosteriorError(
            f"{record} does not say how the model was trained ({error}); remove it, and give what it would have said"
        ) from error
    return settings


def passed_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder of a posterior keeps of the settings that its model was trained with."""
    return {name: settings[name] for name in _PASSED_ON if name in settings}
