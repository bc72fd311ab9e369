"""The packages that only reports need."""

import importlib
from types import ModuleType

from prudent.errors import PrudentError

__all__ = ["need", "need_report_packages"]


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
        raise PrudentError(
            f'reports need {package}, which is not installed: pip install "prudent[report]", or in a clone '
            'pip install -e ".[report]"'
        ) from error


def need_report_packages() -> None:
    """Import all that a report needs, so that work of minutes does not end on a missing package.

    Raises:
        PrudentError: If one is not installed; the message says how to install it.

    Example:
        >>> need_report_packages()
    """
    for module in ("matplotlib", "plotly", "jinja2"):
        need(module)
