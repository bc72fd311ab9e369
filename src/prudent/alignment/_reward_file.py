"""A Python file with a reward callable in it, for trainers that take a path."""

import importlib.util
import keyword
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from prudent.alignment._exports import OpenRLHFReward, VerlReward
from prudent.alignment._reward import PrudentReward
from prudent.errors import PrudentError
from prudent.models import atomic_file

__all__ = ["RewardFile", "TrainerName", "write_reward_file"]

TrainerName = Literal["trl", "openrlhf", "verl"]
_FORMS: dict[TrainerName, tuple[str, type[Any], str]] = {
    "trl": ("reward", PrudentReward, "trl rloo --reward_funcs {module}.reward"),
    "openrlhf": ("reward_func", OpenRLHFReward, "--reward.remote_url {path}"),
    "verl": (
        "compute_score",
        VerlReward,
        'custom_reward_function.path={path}  # data need extra_info = {{"prompt": ...}}',
    ),
}
"""By trainer: what the callable is called there, its class, and how the trainer is told of it."""


@dataclass(frozen=True)
class RewardFile:
    """A file that was written.

    Attributes:
        path: of the file.
        trainer: that reads it.
        usage: what to write on the trainer's command line; of TRL's in the folder of the file, of the others' anywhere.
    """

    path: Path
    trainer: TrainerName
    usage: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**asdict(self), "path": str(self.path)}


def write_reward_file(
    path: str | Path,
    model: str | Path | Mapping[str, str | Path],
    utility: str | Path = "mean",
    *,
    trainer: TrainerName = "trl",
    overwrite: bool = False,
    **options: Any,
) -> RewardFile:
    """Write a Python file that holds a reward callable, for trainers that are told of rewards by a path.

    The model and the utility are loaded first, so that a file that is written works here. It holds absolute paths.

    Args:
        path: ends in .py; for TRL, whose command line imports it, its name must be that of a module. Names of modules
            that are installed here are refused: in the folder of the file Python would take the one for the other.
        model: as for `PrudentReward`.
        utility: likewise.
        trainer: TRL, OpenRLHF or verl.
        overwrite: replace a file that is there.
        options: others of `PrudentReward` (of `OpenRLHFReward` for OpenRLHF), written down where they are given.

    Raises:
        ValueError: an unknown trainer, or an option out of range.
        PrudentError: the path does not do, a file is there, or the model or the utility cannot be loaded.

    Example:
        >>> write_reward_file("my_reward.py", "rm-posterior", "lcb_std(1)").usage  # doctest: +SKIP
        'trl rloo --reward_funcs my_reward.reward'
    """
    if trainer not in get_args(TrainerName):
        raise ValueError(f"trainer must be one of {', '.join(get_args(TrainerName))}, got {trainer!r}")
    place = Path(path)
    _check_place(place, trainer, overwrite=overwrite)
    name, kind, usage = _FORMS[trainer]
    made = kind(model, utility, **options)
    reward = made if isinstance(made, PrudentReward) else made.reward
    reward.load()
    if options.get("references") is not None:
        options["references"] = os.path.abspath(options["references"])
    arguments = [repr(reward.model), repr(reward.utility)]
    arguments += [f"{option}={_written(value)}" for option, value in options.items()]
    usage = usage.format(module=place.stem, path=os.path.abspath(place))
    text = (
        f'"""A reward for {trainer}: {usage}"""\n\n'
        f"from prudent.alignment import {kind.__name__}\n\n"
        f"{name} = {kind.__name__}({', '.join(arguments)})\n"
    )
    with atomic_file(place) as written:
        written.write_text(text, encoding="utf-8")
    return RewardFile(place, trainer, usage)


def _check_place(place: Path, trainer: TrainerName, *, overwrite: bool) -> None:
    if place.suffix != ".py":
        raise PrudentError(f"{place}: trainers take Python files; give a name that ends in .py")
    if trainer == "trl" and (not place.stem.isidentifier() or keyword.iskeyword(place.stem)):
        raise PrudentError(f"{place}: TRL imports it as a module; give a name of letters, digits and _ alone")
    if _is_installed(place):
        raise PrudentError(
            f"{place}: there is a module {place.stem!r} already, which would be imported for it, or it for the module, "
            f"in that folder; give another name, such as {place.stem}_reward.py"
        )
    if not place.parent.is_dir():
        raise PrudentError(f"there is no folder {place.parent}; make it first")
    if place.is_dir() or (place.exists() and not overwrite):
        raise PrudentError(f"{place} is there already; give another path, or say overwrite (--overwrite)")


def _is_installed(place: Path) -> bool:
    """Whether a module of a file's name can be imported that lies neither beside it nor in the working folder."""
    if not place.stem.isidentifier():
        return False
    if place.stem in sys.builtin_module_names or place.stem in sys.stdlib_module_names:
        return True
    found = importlib.util.find_spec(place.stem)
    if found is None or found.origin is None:  # none, or a mere folder of that name, which gives way to the file
        return False
    return Path(found.origin).resolve().parent not in (place.parent.resolve(), Path.cwd())


def _written(value: Any) -> str:
    """As Python reads it again; a type of torch by its name, which loading takes too."""
    return repr(str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value)
