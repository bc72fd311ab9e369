"""`--config FILE.yaml`: flat option names and values that stand in for the command line."""

import difflib
from typing import Any

import typer

from prudent.errors import DataError

__all__ = ["apply_config_file"]

NOT_IN_A_FILE = {"config", "help"}


def apply_config_file(context: typer.Context, value: str | None) -> str | None:
    """Read the file and make its values the defaults of the verb, so that the command line wins over them.

    Args:
        context: The verb that is being parsed; its `default_map` is set.
        value: Path of the YAML file, or None where the option was not given.

    Returns:
        `value`, unchanged.

    Raises:
        DataError: If the file cannot be read, is not flat, or names an option that the verb does not have.
    """
    if value is not None and not context.resilient_parsing:
        names = _option_names(context)
        repeated = {
            str(parameter.name) for parameter in context.command.params if getattr(parameter, "multiple", False)
        }
        defaults = {}
        for key, entry in read_flat_yaml(value).items():
            name = str(key).replace("_", "-")
            if name not in names:
                raise DataError(
                    f"{value}: unknown option '{key}' for 'prudent {context.info_name}'{_hint(name, names)}"
                )
            if isinstance(entry, dict):
                raise DataError(
                    f"{value}: option '{key}' holds a mapping; the file is flat, one 'option: value' a line"
                )
            if entry is not None:
                # One value for an option that may be given several times; the parser would take text letter by letter.
                several = names[name] in repeated and not isinstance(entry, list)
                defaults[names[name]] = [entry] if several else entry
        context.default_map = {**(context.default_map or {}), **defaults}
    return value


def read_flat_yaml(path: str) -> dict[Any, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    import yaml

    try:
        with open(path, encoding="utf-8") as stream:
            content = yaml.safe_load(stream)
    except OSError as error:
        raise DataError(f"{path}: cannot read the configuration file: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected 'option: value' lines, found a {type(content).__name__}")
    return content


def _option_names(context: typer.Context) -> dict[str, str]:
    """From each long option of the verb, without its leading dashes, to the name of its parameter."""
    return {
        option.removeprefix("--"): str(parameter.name)
        for parameter in context.command.params
        for option in parameter.opts
        if option.startswith("--") and option.removeprefix("--") not in NOT_IN_A_FILE
    }


def _hint(name: str, names: dict[str, str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else f"; it has {', '.join(sorted(names))}"
