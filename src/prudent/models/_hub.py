"""Files of a model, in its folder or on the hub: there, surely not there, or not to be known."""

from pathlib import Path

from prudent.errors import ModelError

__all__ = ["find_model_file"]


def find_model_file(model: str | Path, file_name: str, *, revision: str | None = None) -> Path | None:
    """One file of a model; a hub file is downloaded or taken from the cache.

    Args:
        model: a folder or a hub name.
        file_name: for example `posterior_config.json`.
        revision: of a hub model.

    Returns:
        Its path, or None where the model has no such file.

    Raises:
        ModelError: the hub cannot be asked, and the cache does not know either.

    Example:
        >>> import tempfile
        >>> find_model_file(tempfile.mkdtemp(), "config.json") is None
        True
    """
    if Path(model).is_dir():
        path = Path(model) / file_name
        return path if path.exists() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    name = str(model)
    try:
        return Path(hf_hub_download(name, file_name, revision=revision))
    except LocalEntryNotFoundError as error:
        # Not reached or offline. The cache keeps what the hub once said is missing, as a value that is not a path.
        known = try_to_load_from_cache(name, file_name, revision=revision)
        if known is not None and not isinstance(known, str):
            return None
        raise ModelError(
            f"cannot tell whether {name} has a {file_name}: the hub was not reached and the file is not in the cache; "
            "connect once, or give the folder of a downloaded copy"
        ) from error
    except EntryNotFoundError:
        return None
    except (OSError, HFValidationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"cannot look up {file_name} of {name}: {reason}") from error
