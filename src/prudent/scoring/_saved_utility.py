"""A utility on disk: `utility.yaml` and `utility.safetensors`, in a folder of their own or beside a model.

What its transforms learned for a prompt is kept under a digest of the prompt's text, since the number of a prompt means
something in one file alone. States are tensors, and nothing is unpickled.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from prudent.errors import DataError, PrudentError, UtilityError
from prudent.models import atomic_file
from prudent.scoring._learned_steps import LearnedStep, learned_steps, transforms_of
from prudent.scoring._output import require_apart
from prudent.utility import FittedUtility, TransformState, Utility, parse_utility

__all__ = ["SavedUtility", "check_place", "holds_utility", "load_utility", "prompt_keys", "save_utility"]

FORMAT_VERSION = 1
CONFIG = "utility.yaml"
TENSORS = "utility.safetensors"


@dataclass(frozen=True)
class SavedUtility:
    """A utility with what it learned, for prompts that are known by their text.

    Attributes:
        fitted: the utility; prompts have the ids that `prompt_keys` gives their texts.
        basis_ids: for each reward that it reads, by the name that the utility has for it, what names the posterior that
            scored it; None for a model without one.
        fitted_on: the file, the number of its prompts and of their reference responses, for the record.
        source: where it was read, for messages.
        models: for each reward of a model without a posterior, by the same name, what names the model, where that is
            known. Of scores that other programs made it is not, so nothing tells whether they are of one model.
    """

    fitted: FittedUtility
    basis_ids: Mapping[str, str | None] = field(default_factory=dict)
    fitted_on: Mapping[str, Any] = field(default_factory=dict)
    source: str = "the utility"
    models: Mapping[str, str] = field(default_factory=dict)

    @property
    def utility(self) -> Utility:
        """What it says."""
        return self.fitted.utility

    @property
    def learned(self) -> tuple[LearnedStep, ...]:
        """What its steps learned, in figures."""
        return learned_steps(self.fitted, self.fitted_on.get("num_references") or {})

    def under(self, prompts: Tensor, texts: Iterable[str]) -> FittedUtility:
        """The utility for prompts under ids of their own.

        Args:
            prompts: [P] int64, all different.
            texts: of each.

        Returns:
            What is known of these prompts; others are left out, and an error when the utility is applied to them.
        """
        return self.fitted.taking(prompt_keys(texts), prompts)

    def check_basis(self, name: str, basis_id: str | None, model: str | None = None) -> None:
        """Make sure that rewards are of the model whose references the utility knows.

        Args:
            name: of a reward that the utility reads.
            basis_id: of the rewards at hand.
            model: that gave them, where no posterior did and it is known.

        Raises:
            DataError: they are of another.
        """
        if name not in self._rewards_with_references:
            return
        known, other = self.basis_ids.get(name), self.models.get(name)
        if basis_id == known and (basis_id is not None or None in (model, other) or model == other):
            return
        was, here = (f"basis {known}", f"basis {basis_id}") if basis_id != known else (other, model)
        raise DataError(
            f"{self.source} was fitted on rewards {name!r} of another model or posterior ({was}) than these ({here}): "
            "fit it again with `prudent utility` on responses that this model scored"
        )

    @property
    def _rewards_with_references(self) -> set[str]:
        return {
            name
            for node, _ in transforms_of(self.utility)
            if (state := self.fitted.states[str(node)]).shared or state.per_prompt
            for name in node.reward_names
        }


def prompt_keys(texts: Iterable[str]) -> Tensor:
    """Ids that mean the same prompt everywhere.

    Args:
        texts: of P prompts as a scored file has them, in the column `prompt`.

    Returns:
        [P] int64, 63 bits of a digest of each text.

    Example:
        >>> prompt_keys(["Name a fruit.", "Name a fruit."]).unique().shape
        torch.Size([1])
    """
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.int64)


def holds_utility(place: str | Path) -> bool:
    """Whether a path is that of a saved utility: its folder, or its YAML file.

    Example:
        >>> holds_utility("lcb_std(2)")
        False
    """
    # what is no path at all, such as a long text, is none of these either
    is_folder = bool(str(place)) and os.path.isfile(os.path.join(place, CONFIG))
    return is_folder or (str(place).endswith(".yaml") and "\n" not in str(place))


def check_place(folder: str | Path, *, overwrite: bool) -> None:
    """Make sure that a utility may be written to a folder, before it is worked out.

    Args:
        folder: it need not exist.
        overwrite: a utility that is there may be replaced.

    Raises:
        PrudentError: it is a file, or is or lies in a scored dataset, or holds a utility that may not be replaced.

    Example:
        >>> import tempfile
        >>> check_place(tempfile.mkdtemp(), overwrite=False)
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise PrudentError(f"{folder} is a file; give another output folder")
    require_apart(folder)
    if (Path(folder) / CONFIG).exists() and not overwrite:
        raise PrudentError(f"{folder} already holds a utility; give another folder or say overwrite (--overwrite)")


def save_utility(saved: SavedUtility, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a utility into a folder, which may hold a model; the YAML file, written last, says that it is whole.

    Args:
        saved: from `fit_utility`.
        folder: made where there is none; other files there stay.
        overwrite: replace a utility that is there.

    Raises:
        PrudentError: the folder is a file, or holds a utility and `overwrite` is False.
    """
    from safetensors.torch import save_file

    check_place(folder, overwrite=overwrite)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    content = {
        "format_version": FORMAT_VERSION,
        "utility": str(saved.utility),
        "rewards": {name: _identity(saved, name) for name in saved.basis_ids},
        "fitted_on": dict(saved.fitted_on),
        "learned": [step.to_dict() for step in saved.learned],
    }
    # both are whole before the one that is there gives way
    with atomic_file(place / CONFIG) as config:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
        config.write_text(text, encoding="utf-8")
        with atomic_file(place / TENSORS) as tensors:
            save_file(_tensors(saved.fitted), tensors)
            (place / CONFIG).unlink(missing_ok=True)


def load_utility(place: str | Path) -> SavedUtility:
    """Read what `save_utility` wrote.

    Args:
        place: the folder, or the YAML file in it.

    Raises:
        DataError: there is no utility, or it is damaged, of another format, or its two files do not belong together.
        UtilityError: the text in it is not a utility; the file is named.
    """
    config = Path(place) if str(place).endswith(".yaml") else Path(place) / CONFIG
    content = _read_yaml(config)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        advice = "upgrade prudent" if isinstance(version, int) and version > FORMAT_VERSION else "fit it again"
        raise DataError(f"{config} has format {version}, this prudent reads format {FORMAT_VERSION}; {advice}")
    if not isinstance(content.get("utility"), str):
        raise DataError(f"{config} has no text `utility`; fit it again with `prudent utility`")
    try:
        utility = parse_utility(content["utility"])
    except UtilityError as error:
        raise UtilityError(f"{config}: {error}") from error
    rewards = content.get("rewards") or {}
    if not isinstance(rewards, dict) or not all(isinstance(one, dict) for one in rewards.values()):
        raise DataError(f"{config}: `rewards` must name each reward and its basis_id; fit it again")
    states = _states(utility, config)
    basis_ids = {str(name): one.get("basis_id") for name, one in rewards.items()}
    lacking = [name for name in utility.reward_names if name not in basis_ids]
    if lacking and any(state.shared or state.per_prompt for state in states.values()):
        raise DataError(f"{config} does not say whose rewards {lacking[0]!r} it was fitted on; fit it again")
    fitted_on = content.get("fitted_on") or {}
    if not isinstance(fitted_on, dict) or not isinstance(fitted_on.get("num_references") or {}, dict):
        raise DataError(f"{config}: `fitted_on` must say what the utility was fitted on, entry by entry; fit it again")
    models = {str(name): one["model"] for name, one in rewards.items() if one.get("model") is not None}
    saved = SavedUtility(FittedUtility(utility, states), basis_ids, fitted_on, str(config), models)
    try:
        _ = saved.learned
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{config.with_name(TENSORS)} is damaged (it has no tensor {error}); fit it again with `prudent utility`"
        ) from error
    return saved


def _identity(saved: SavedUtility, name: str) -> dict[str, str | None]:
    """What names the model of a reward."""
    found = {"basis_id": saved.basis_ids[name]}
    return found | {"model": saved.models[name]} if name in saved.models else found


def _tensors(fitted: FittedUtility) -> dict[str, Tensor]:
    """The states of steps that learned something, by the text up to the step."""
    found: dict[str, Tensor] = {}
    for path, state in fitted.states.items():
        if state.per_prompt:
            found[f"{path}/prompts"] = state.prompts.contiguous()
        found |= {f"{path}/per_prompt/{name}": values.contiguous() for name, values in state.per_prompt.items()}
        # tensors that share memory cannot be written
        found |= {f"{path}/shared/{name}": values.clone().contiguous() for name, values in state.shared.items()}
    return found


def _states(utility: Utility, config: Path) -> dict[str, TransformState]:
    tensors: dict[str, Tensor] | None = None
    states = {}
    for node, step in transforms_of(utility):
        path = str(node)
        if not step.needs_references:
            states[path] = TransformState()
            continue
        if tensors is None:
            tensors = _read_tensors(config.with_name(TENSORS))
        per_prompt, shared = _under(tensors, f"{path}/per_prompt/"), _under(tensors, f"{path}/shared/")
        if not per_prompt and not shared:
            raise DataError(
                f"{config.with_name(TENSORS)} knows nothing of `{path}`: the text of the utility was changed after it "
                "was fitted; fit it again with `prudent utility`"
            )
        try:
            prompts = tensors[f"{path}/prompts"] if per_prompt else torch.empty(0, dtype=torch.int64)
            states[path] = TransformState(prompts, per_prompt, shared)
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{config.with_name(TENSORS)} is damaged ({error}); fit it again with `prudent utility`"
            ) from error
    return states


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"there is no utility at {path}; `prudent utility` makes one") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} is not readable as YAML ({' '.join(str(error).split())}); fit it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a saved utility, which has entries format_version and utility")
    return content


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(f"{path} is missing, which {CONFIG} beside it needs; fit the utility again")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); fit the utility again with `prudent utility`") from error
    return tensors
