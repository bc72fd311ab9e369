"""Finding and loading a reward model: Transformers folders, PEFT adapters, hub names; clear words when it fails."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prudent.errors import ModelError
from prudent.models._hub import find_model_file
from prudent.models._quiet import quiet_transformers

__all__ = [
    "add_lora",
    "choose_device",
    "explained",
    "is_adapter",
    "load_adapters",
    "load_model",
    "load_tokenizer",
    "require_finite",
    "require_there",
    "resolve_base",
    "revision_option",
    "shareable_base",
]

_PREFIX = "base_model.model."  # PEFT's, of every weight in an adapter's file
_HEADS = ("classifier", "score")  # PEFT saves these with every classifier's adapter


def choose_device(device: torch.device | str | None) -> torch.device:
    """The device asked for; by default an accelerator where there is one."""
    if device is not None:
        chosen = torch.device(device)
        # Accelerate numbers the CPU, which safetensors does not know.
        return torch.device("cpu") if chosen.type == "cpu" else chosen
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def load_model(
    name: str, *, dtype: torch.dtype | str | None, device: torch.device, revision: str | None, seed: int
) -> tuple[nn.Module, tuple[str, ...]]:
    """A one-output sequence classifier, with its adapter where it has one, and the modules the checkpoint lacks.

    Where there are such modules the model is not a reward model yet: its head is among them, and with some
    architectures a pooler or a dense layer below the head.

    Raises:
        ModelError: nothing loadable there, several outputs, an adapter for another task, weights missing or not finite.
    """
    if is_adapter(name, revision):
        model, missing = _load_adapted(name, dtype=dtype, device=device, revision=revision, seed=seed)
    else:
        model, missing = _load_classifier(name, dtype=dtype, device=device, revision=revision, seed=seed)
    require_finite(model, name)
    return model, _modules_of(missing)


def load_tokenizer(name: str, *, revision: str | None) -> Any:
    """The tokenizer beside a model; for an adapter without one, that of its base."""
    from peft import PeftConfig
    from transformers import AutoTokenizer

    if is_adapter(name, revision) and find_model_file(name, "tokenizer_config.json", revision=revision) is None:
        with explained(name):
            config = PeftConfig.from_pretrained(name, **revision_option(revision))
        name, revision = resolve_base(name, config.base_model_name_or_path), config.revision
    with explained(name, what="tokenizer"):
        return AutoTokenizer.from_pretrained(name, **revision_option(revision))


def add_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    upper_half: bool = False,
    new_modules: Sequence[str] = (),
) -> nn.Module:
    """The model with new LoRA adapters on the layers PEFT names for its architecture, and its head trained in full.

    Architectures that PEFT does not list get adapters on all linear layers but the head.

    Args:
        model: a sequence classifier.
        rank: of the adapters.
        alpha: their scale is alpha / rank.
        dropout: on their input.
        upper_half: on the upper half of the transformer's layers only.
        new_modules: modules whose weights the checkpoint lacked. They are trained in full and saved with the adapter:
            loading the base again would draw them anew. The head is among them without being named.
    """
    from peft import LoraConfig, TaskType, get_peft_model
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    classifier: Any = model
    depth = classifier.config.get_text_config().num_hidden_layers
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=None if classifier.config.model_type in KNOWN else "all-linear",
        layers_to_transform=list(range(depth // 2, depth)) if upper_half else None,
        modules_to_save=_extra_modules(new_modules) or None,
    )
    with quiet_transformers():
        adapted: nn.Module = get_peft_model(classifier, config)
    return adapted


def _load_adapted(
    name: str, *, dtype: torch.dtype | str | None, device: torch.device, revision: str | None, seed: int
) -> tuple[nn.Module, list[str]]:
    """A base with its adapter, and the weights that neither of them holds.

    PEFT's own loading refuses an adapter without the head that a classifier's adapter has, and one that names no task
    gets no place for a head: so the adapter is put on here, and what its file lacks stays as in the base. Modules that
    are new belong to the adapter from then on and are saved with it.
    """
    config = _adapter_config(name, revision)
    base: nn.Module
    base, missing = _load_classifier(
        resolve_base(name, config.base_model_name_or_path),
        dtype=dtype,
        device=device,
        revision=config.revision,
        seed=seed,
    )
    return _put_on(base, name, config, missing, device=device, revision=revision, adapter="default")


def shareable_base(name: str) -> str | None:
    """Names base and revision of a LoRA adapter that can stand beside others on one base; None for everything else."""
    if not is_adapter(name, None):
        return None
    config = _adapter_config(name, None)
    kind = getattr(config.peft_type, "value", config.peft_type)
    # One adapter at most can train biases of the base itself, and some ways to start an adapter rewrite the base.
    keeps_base = (
        kind == "LORA" and config.bias == "none" and config.init_lora_weights in (True, False, "gaussian", "orthogonal")
    )
    return f"{resolve_base(name, config.base_model_name_or_path)}@{config.revision}" if keeps_base else None


def load_adapters(
    names: Sequence[str], *, dtype: torch.dtype | str | None, device: torch.device, seed: int
) -> tuple[nn.Module, list[tuple[str, tuple[str, ...]]]]:
    """Adapters of one base, by `shareable_base`, on one copy of it.

    Args:
        names: folders or hub names.
        dtype: of the weights.
        device: of the weights.
        seed: of what is new.

    Returns:
        The model, whose first adapter is active; and of each adapter what it is called there, and the modules that
        neither the base nor it holds.

    Raises:
        ModelError: as `load_model`.
    """
    configs = [_adapter_config(name, None) for name in names]
    base = resolve_base(names[0], configs[0].base_model_name_or_path)
    model, missing = _load_classifier(base, dtype=dtype, device=device, revision=configs[0].revision, seed=seed)
    found = []
    for place, (name, config) in enumerate(zip(names, configs, strict=True)):
        # The first is called as PEFT calls an only one, the others so that no part of a module's name is like it.
        adapter = f"adapter_{place}" if place else "default"
        model, lacking = _put_on(model, name, config, missing, device=device, revision=None, adapter=adapter)
        require_finite(model, name)
        found.append((adapter, _modules_of(lacking)))
    return model, found


def _adapter_config(name: str, revision: str | None) -> Any:
    from peft import PeftConfig

    with explained(name):
        config = PeftConfig.from_pretrained(name, **revision_option(revision))
    if config.task_type not in ("SEQ_CLS", None):
        raise ModelError(
            f"{name} is an adapter for {config.task_type}, a reward model has one for SEQ_CLS; train one with that task"
        )
    return config


def _put_on(
    base: nn.Module,
    name: str,
    config: Any,
    missing: list[str],
    *,
    device: torch.device,
    revision: str | None,
    adapter: str,
) -> tuple[nn.Module, list[str]]:
    """The base, or a model with other adapters on it, with this adapter; and the weights that neither holds."""
    from peft import PeftModelForSequenceClassification, load_peft_weights, set_peft_model_state_dict
    from peft.utils import AuxiliaryTrainingWrapper

    # A trained head in the base stands in for one that the adapter never had, not for one that its file lost.
    declared = [*(getattr(config, "modules_to_save", None) or []), *(_HEADS if config.task_type else [])]
    with quiet_transformers(), explained(name):
        weights = load_peft_weights(name, device=str(device), **revision_option(revision))
        missing = [key for key in missing if f"{_PREFIX}{key}" not in weights]
        touched = [key.removeprefix(_PREFIX) for key in weights]
        new = [module for module in _extra_modules(_modules_of(missing)) if not _any_within(touched, module)]
        config.task_type = "SEQ_CLS"
        config.inference_mode = True
        if hasattr(config, "modules_to_save") and new:
            config.modules_to_save = [*(config.modules_to_save or []), *new]
        model: Any = base
        if hasattr(base, "peft_config"):
            model.add_adapter(adapter, config)
        else:
            model = PeftModelForSequenceClassification(base, config, adapter_name=adapter)
        lacking = []
        for place, module in model.named_modules():
            if not isinstance(module, AuxiliaryTrainingWrapper):
                continue
            held = module.state_dict()
            for key, stored in module.adapter_state_dict_load_map(adapter).items():
                whole = f"{place}.{key}"
                if whole not in weights:
                    weights[whole] = held[stored]
                    lacking.append(whole.removeprefix(_PREFIX))
        lost = [key for key in lacking if key not in missing and any(f".{part}." in f".{key}" for part in declared)]
        if lost:
            raise ModelError(f"the adapter {name} lacks weights: {', '.join(lost[:3])}; it is incomplete")
        unplaced = set_peft_model_state_dict(model, weights, adapter_name=adapter).unexpected_keys
        if any(part in _HEADS for key in unplaced for part in key.split(".")):
            raise ModelError(
                f"{name}: an adapter sits on the reward head; merge it, or train the head by modules_to_save"
            )
    adapted: nn.Module = model.eval()
    return adapted, missing


def _modules_of(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({key.rpartition(".")[0] for key in keys}))


def _extra_modules(modules: Sequence[str]) -> list[str]:
    # One module to save cannot lie within another.
    return [name for name in modules if not any(part in _HEADS for part in name.split("."))]


def _any_within(keys: Sequence[str], module: str) -> bool:
    return any(key.startswith(f"{module}.") for key in keys)


def _load_classifier(
    name: str, *, dtype: torch.dtype | str | None, device: torch.device, revision: str | None, seed: int
) -> tuple[nn.Module, list[str]]:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with explained(name):
        config = AutoConfig.from_pretrained(name, **revision_option(revision))
    trained_head = any("SequenceClassification" in architecture for architecture in config.architectures or [])
    if trained_head and config.num_labels != 1:
        raise ModelError(
            f"{name} has {config.num_labels} outputs, a reward model has one; load a model trained with num_labels=1"
        )
    chosen = dtype if dtype is not None else (torch.float32 if device.type == "cpu" else "auto")
    # Only a new head draws numbers here; its own generator state leaves the caller's alone.
    with torch.random.fork_rng(devices=[]), quiet_transformers(), explained(name):
        torch.manual_seed(seed)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, num_labels=1, dtype=chosen, output_loading_info=True, **revision_option(revision)
        )
    missing = sorted(info["missing_keys"])
    # A base model comes without head and may come without pooler, but not without any other part of its transformer.
    backbone = f"{model.base_model_prefix}."
    lacking = [key for key in missing if trained_head or (key.startswith(backbone) and "pooler" not in key)]
    if lacking:
        raise ModelError(f"{name} lacks weights: {', '.join(lacking[:3])}; the checkpoint is incomplete")
    placed: nn.Module = model.to(device)
    return placed, missing


def resolve_base(adapter: str, base: str | None) -> str:
    """Where the base of an adapter is, by what its configuration says."""
    if not base:
        raise ModelError(f"{adapter}/adapter_config.json names no base_model_name_or_path; add it")
    # A relative folder is meant from the adapter's place first: folders that were moved together stay together.
    beside = Path(adapter) / base
    return str(beside) if not Path(base).exists() and beside.exists() else base


def require_there(model: str | Path) -> None:
    """Refuse what can only be meant as a folder, and is none.

    Args:
        model: folder or hub name, which has at most one "/", between others.

    Raises:
        ModelError: it is such.

    Example:
        >>> require_there("org/model")
    """
    name = str(model)
    is_path = isinstance(model, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_path and not Path(model).exists():
        raise ModelError(f"there is no folder {name}; give the folder of a model or a hub name such as org/model")


def is_adapter(name: str, revision: str | None) -> bool:
    """A PEFT adapter is there; False for a whole model.

    Raises:
        ModelError: neither can be there.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
            if (folder / "posterior_config.json").exists():
                raise ModelError(f"{name} is an ensemble of models, and one is needed here; name a member of it")
            held = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
            raise ModelError(f"{name} holds neither config.json nor adapter_config.json (it holds {held})")
        return (folder / "adapter_config.json").exists()
    if folder.exists():
        raise ModelError(f"{name} is a file; give the folder of a model or a hub name")
    require_there(name)
    from transformers.utils.peft_utils import find_adapter_config_file

    with explained(name):
        return find_adapter_config_file(name, **revision_option(revision)) is not None


def revision_option(revision: str | None) -> dict[str, str]:
    """The argument of `from_pretrained`, none for the main revision."""
    return {} if revision is None else {"revision": revision}


class explained:
    """Turn what Transformers, PEFT and safetensors raise on a bad checkpoint into one line that names it."""

    def __init__(self, name: str, what: str = "model") -> None:
        self._name = name
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from safetensors import SafetensorError

        if isinstance(error, OSError | ValueError | RuntimeError | KeyError | SafetensorError):
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            place = "" if Path(self._name).exists() else " (no folder of that name here, so the hub was asked)"
            raise ModelError(f"cannot load the {self._what} of {self._name}{place}: {first}") from error


def require_finite(model: nn.Module, name: str) -> None:
    """Make sure that no weight is infinite or not a number.

    Raises:
        ModelError: one is.
    """
    for parameter_name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"{name}: the weights {parameter_name} are not finite; the checkpoint is damaged")
