"""`train_members`: several runs from one model, alike but for their seeds, one folder each."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from prudent.data import Preferences
from prudent.errors import ModelError
from prudent.models import progress_within
from prudent.training._config import TrainingConfig, training_arguments
from prudent.training._result import TrainingResult
from prudent.training._run import RunFolder
from prudent.training._train import plan_run, require_apart, train

__all__ = ["train_members"]

# What an ensemble of such runs adds to their folders.
_ENSEMBLE_FILES = ("posterior_config.json", "posterior.safetensors", "README.md")


def train_members(
    model: str | Path,
    data: Sequence[Preferences],
    output: str | Path,
    *,
    eval_data: Preferences | None = None,
    config: TrainingConfig | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[TrainingResult, ...]:
    """Train M reward models one after another, member m by seed `config.seed + m` into `output/member_m`.

    The seed sets a new head, new adapters, dropout and the order of the pairs. Each member is an ordinary run of
    `train`: killed and called again in the same way, the one that was cut off goes on from its last checkpoint, and
    those that had finished are left as they are. That all of them have the settings of this call is checked before the
    first one starts. Called again with more members, it adds them.

    Args:
        model: hub name or folder, as for `train`.
        data: M sets of pairs, one a member: the same M times, or resamples.
        output: folder of the members' folders.
        eval_data: pairs that each member is evaluated on, with none of the prompts of `data`.
        config: options of all members.
        strict: a text over the length limit is an error instead of being cut.
        overwrite: discard what an earlier call left in `output`, but for members of an unfinished one with the same
            settings: these are kept, or continued.
        progress: show progress with rate and time left, and the member, on standard error.

    Returns:
        Figures and counts of each run.

    Raises:
        DataError: as for `train`.
        ModelError: as for `train`; or `output` holds something else, or more members.
        KeyboardInterrupt: as it came, with a message that says from where the run will resume.

    Example:
        >>> from prudent.training import load_training_pairs
        >>> pairs, _ = load_training_pairs("pairs.jsonl")  # doctest: +SKIP
        >>> results = train_members("my-base", [pairs] * 3, "my-members")  # doctest: +SKIP
        >>> [result.settings["seed"] for result in results]  # doctest: +SKIP
        [0, 1, 2]
    """
    config = config or TrainingConfig()
    folder = Path(output)
    if Path(model).is_dir():
        require_apart(Path(model), folder)
    configs = [replace(config, seed=config.seed + place) for place in range(len(data))]
    runs = [RunFolder(folder / f"member_{place}") for place in range(len(data))]
    settings = [plan_run(model, pairs, eval_data, own) for pairs, own in zip(data, configs, strict=True)]
    _require_own(folder)
    if overwrite:
        arguments = training_arguments(config, folder, evaluate=False)
        with arguments.main_process_first(local=False):
            if arguments.should_save:
                _clear(folder, len(data))
    elif more := [path.name for path in _members(folder) if path.name not in {run.output.name for run in runs}]:
        raise ModelError(
            f"{folder} holds {', '.join(more[:3])} beside the {len(data)} members asked for; name another output "
            "folder, or discard what is there with overwrite (--overwrite)"
        )
    else:
        for run, planned in zip(runs, settings, strict=True):
            run.finished(planned)  # refuses a run with other settings
    results = []
    for place, (run, pairs, own) in enumerate(zip(runs, data, configs, strict=True)):
        with progress_within(f"Member {place + 1} of {len(data)}"):
            results.append(
                train(
                    model,
                    pairs,
                    run.output,
                    eval_data=eval_data,
                    config=own,
                    strict=strict,
                    overwrite=overwrite,
                    keep_same=True,
                    progress=progress,
                )
            )
    return tuple(results)


def _members(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if re.fullmatch(r"member_\d+", path.name)] if folder.is_dir() else []
    return sorted(found, key=_place)


def _place(member: Path) -> int:
    return int(member.name.removeprefix("member_"))


def _require_own(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file; name a folder for the members")
    known = {*_members(folder), *(folder / name for name in _ENSEMBLE_FILES)}
    other = [] if not folder.is_dir() else [path.name for path in folder.iterdir() if path not in known]
    # What a process left that died while writing, or while fitting a posterior to a member.
    other = [name for name in other if not (name.endswith(".tmp") or re.fullmatch(r"member_\d+\.partial", name))]
    if other:
        shown = ", ".join(sorted(other)[:3])
        raise ModelError(f"{folder} holds files of something else ({shown}); name another output folder")


def _clear(folder: Path, count: int) -> None:
    """Discard a finished ensemble whole, and of an unfinished one the members that are more than asked for."""
    finished = (folder / _ENSEMBLE_FILES[0]).exists()
    for name in _ENSEMBLE_FILES:
        (folder / name).unlink(missing_ok=True)
    for path in _members(folder):
        if finished or _place(path) >= count:
            RunFolder(path).clear()
            if path.is_dir() and not any(path.iterdir()):
                rmtree(path)
