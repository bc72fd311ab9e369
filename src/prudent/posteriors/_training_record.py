"""What prudent's training left beside a model."""

import json
from pathlib import Path
from typing import Any

from prudent.errors import PosteriorError

__all__ = ["training_settings"]


def training_settings(model: str | Path | None) -> dict[str, Any]:
    """The settings that a model was trained with; nothing where prudent did not train it, or not here.

    Args:
        model: folder or hub name; None for a model in memory.

    Raises:
        PosteriorError: the record is damaged.
    """
    record = None if model is None else Path(model) / "training_result.json"
    if record is None or not record.is_file():
        return {}
    try:
        settings: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))["settings"]
        return dict(settings)
    except (ValueError, KeyError, TypeError) as error:
        raise PosteriorError(
            f"{record} does not say how the model was trained ({error}); remove it, and give what it would have said"
        ) from error
