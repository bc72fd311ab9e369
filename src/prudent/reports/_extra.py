"""The packages that only reports need."""

import importlib
from types import ModuleType

from prudent.errors import PrudentError

__all__ = ["need"]


def need(module: str) -> ModuleType:
    """Import a module of the extra `report`.

    Raises:
        PrudentError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name is None or error.name.split(".")[0] != package:
            raise
        raise PrudentError(f'reports need {package}, which is not installed: pip install "prudent[report]"') from error
