"""`fit`: a posterior for any reward model from a preference set."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from prudent.data import OnBad, Preferences, check_eval_split, check_leak, choose_split, load_preferences
from prudent.errors import PosteriorError, UnsupportedError
from prudent.models import Pooling, RewardModel, atomic_folder
from prudent.posteriors._blocks import find_blocks, held_fixed
from prudent.posteriors._card import card_with_posterior
from prudent.posteriors._evidence import PRIOR_BOUNDS
from prudent.posteriors._fit_kinds import HeldOut, fit_last_layer, fit_lora
from prudent.posteriors._held_out import PRIOR_SCALES, HeldOutFigures
from prudent.posteriors._last_layer import HeadChoice, LastLayerPosterior
from prudent.posteriors._logistic import MAX_PRIOR_PRECISION
from prudent.posteriors._lora_fit import DEFAULT_MAX_RANK
from prudent.posteriors._lora_laplace import LoraLaplacePosterior, Structure
from prudent.posteriors._pair_texts import encode_pairs
from prudent.posteriors._processes import process_state
from prudent.posteriors._resume import SumsCheckpoint
from prudent.posteriors._store import save_posterior

__all__ = ["FitResult", "PosteriorKind", "PriorChoice", "fit"]

PosteriorKind = Literal["last_layer", "kron", "ekfac", "diag", "full"]
"""`last_layer`: a Bayesian head on the features. The others: Laplace over LoRA weights and head, by structure."""

_LAST_LAYER = ("last_layer",)
_FEW_PAIRS = 100

PriorChoice = Literal["evidence", "held_out"]
"""The prior precision of highest evidence, or that under which held-out pairs are most likely."""


@dataclass(frozen=True)
class FitResult:
    """What `fit` made.

    Attributes:
        posterior: the fitted posterior.
        num_pairs: pairs used.
        num_skipped: pairs left out as faulty.
        num_truncated: texts whose response was cut.
        num_prompt_truncated: texts whose prompt was cut.
        train_accuracy: share of the pairs fitted on whose chosen response has the higher posterior mean.
        held_out: figures on held-out pairs, where there were any.
        output: folder written, if any.
        notes: what a user should know about this fit, a sentence each.
    """

    posterior: LastLayerPosterior | LoraLaplacePosterior
    num_pairs: int
    num_skipped: int
    num_truncated: int
    num_prompt_truncated: int
    train_accuracy: float
    held_out: HeldOutFigures | None
    output: Path | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the tensors."""
        entries = self.posterior.state()[1]
        figures = {key: value for key, value in asdict(replace(self, posterior=None)).items() if key != "posterior"}  # type: ignore[arg-type]
        return {**entries, **figures, "output": None if self.output is None else str(self.output)}


def fit(
    model: str | Path | RewardModel,
    data: Any,
    output: str | Path | None = None,
    *,
    split: str = "train",
    eval_data: Any = None,
    eval_split: str | None = None,
    posterior: PosteriorKind = "last_layer",
    pooling: Pooling = "head",
    head: HeadChoice | None = None,
    standardize: bool = True,
    prior_precision: float | PriorChoice = "evidence",
    per_layer: bool = False,
    max_rank: int = DEFAULT_MAX_RANK,
    center_rewards_coefficient: float | None = None,
    posterior_temperature: float = 1.0,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    strict: bool = False,
    skip_bad: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> FitResult:
    """Fit a posterior to a reward model, made by prudent or not, from preferences.

    Started by `accelerate launch` or `torchrun`, processes share the pairs of a LoRA kind, and the first one writes.
    Such a fit keeps its sums over the pairs in `output.partial` once a minute: killed and called again in the same way,
    it goes on from there and ends at the same posterior, on a CPU bit for bit. Only what the sums depend on must be the
    same; the prior precision, for one, may be another.

    Args:
        model: a loaded model, a folder, or a hub name. A loaded model whose head is refitted is changed.
        data: preferences, loaded or in any form that `prudent.data.load_preferences` takes.
        output: folder to save model and posterior to; with `overwrite` it may be the model's own
            folder, whose head and posterior are then replaced.
        split: the split of data that have several.
        eval_data: held-out preferences: the prior precision that they prefer is reported beside that of highest
            evidence, with calibration figures, which are saved with the posterior.
        eval_split: the split of the held-out data, by default as in `prudent.evaluation.evaluate`; without `eval_data`,
            the split of `data` to hold out.
        posterior: the kind. `kron`, `ekfac`, `diag` and `full` are about the weights of a LoRA adapter and the head,
            which stay as they are.
        pooling: what the last layer reads. With `mean` the posterior carries its own head, since a plain Transformers
            classifier cannot average: then the folder's plain rewards differ from the posterior mean.
        head: for `last_layer`: `refit` (the default) moves the head to the posterior mode (it is saved, so that plain
            Transformers gives the same mean), `kept` leaves it as trained. The other kinds always keep it.
        standardize: for `last_layer`: put the isotropic prior on standardised features.
        prior_precision: a number; or that of highest evidence; or that under which the held-out pairs are most likely.
        per_layer: for LoRA kinds but `full`: each weight matrix has its own prior precision.
        max_rank: for `kron` and `ekfac`: directions kept of the longer side of a weight matrix; the others share an
            average curvature.
        center_rewards_coefficient: for LoRA kinds: the one that the model was trained with; by default what
            `training_result.json` beside the model says, else none.
        posterior_temperature: factor on the posterior covariance, 1 is Bayes.
        max_length: tokens a text may have.
        tokens_per_batch: padded tokens of a batch.
        strict: an over-long text is an error.
        skip_bad: leave faulty rows out instead of stopping.
        overwrite: replace an existing output folder.
        seed: of what is new where the model is a base: its head, which is of no consequence once refitted, and with
            some encoders a pooler or dense layer below it, which stays as it was drawn. Also of the pairs that `ekfac`
            finds its bases from.
        progress: show a bar.

    Raises:
        DataError: the preferences are faulty, or held-out prompts are among those fitted on.
        ModelError: the model cannot be loaded.
        PosteriorError: fewer than two pairs, features or gradients not finite, a new head that would be kept, a LoRA
            kind without LoRA layers, or an unfinished fit with other settings that is not to be overwritten.
        UnsupportedError: an adapter that is not LoRA, or an option that the kind does not have.
    """
    if posterior not in get_args(PosteriorKind):
        raise PosteriorError(f"there is no posterior {posterior!r}; known: {', '.join(get_args(PosteriorKind))}")
    if isinstance(prior_precision, str) and prior_precision not in get_args(PriorChoice):
        raise ValueError(f"prior_precision is {prior_precision!r}; a positive number, 'evidence' or 'held_out'")
    if not isinstance(prior_precision, str) and not prior_precision > 0:
        raise ValueError(f"prior_precision is {prior_precision}; it must be positive")
    if prior_precision == "held_out" and eval_data is None and eval_split is None:
        raise PosteriorError("a prior precision chosen by held-out pairs needs such pairs: give eval_data")
    _require_options_of(
        posterior,
        {
            "pooling 'mean'": pooling != "head" and _LAST_LAYER,
            "head 'refit'": head == "refit" and _LAST_LAYER,
            "standardize False": not standardize and _LAST_LAYER,
            "max_rank": max_rank != DEFAULT_MAX_RANK and ("kron", "ekfac"),
            "per_layer": per_layer and ("kron", "ekfac", "diag"),
            "center_rewards_coefficient": bool(center_rewards_coefficient) and get_args(Structure),
        },
    )
    preferences, held_out = _load(data, split, eval_data, eval_split, on_bad="skip" if skip_bad else "error")
    rows = preferences.rows
    if len(rows) < 2:
        raise PosteriorError(f"a posterior needs at least two preference pairs, there are {len(rows)}")
    source = None if isinstance(model, RewardModel) else Path(model)
    process = process_state()
    checkpoint = None if output is None else SumsCheckpoint(output, overwrite=overwrite)
    with atomic_folder(output if process.is_main_process else None, overwrite=overwrite) as folder:
        loaded = (
            model
            if isinstance(model, RewardModel)
            else RewardModel.from_pretrained(
                model,
                device=process.device,
                max_length=max_length,
                seed=seed,
            )
        )
        if posterior != "last_layer":
            find_blocks(loaded)  # what is not LoRA is refused before texts are read
        chosen_head: HeadChoice = head or ("refit" if posterior == "last_layer" else "kept")
        if loaded.head_is_new and chosen_head == "kept":
            raise PosteriorError(
                f"{source or 'the model'} has no trained head to keep; train it first or let it be refitted"
            )
        centering = _trained_centering(source) if center_rewards_coefficient is None else center_rewards_coefficient
        pairs = encode_pairs(loaded, rows, strict=strict)
        evaluated = None
        if held_out is not None:
            evaluated = HeldOut(
                encode_pairs(loaded, held_out.rows, strict=strict),
                held_out.summary.source,
                prior_precision == "held_out",
            )
        common: dict[str, Any] = {
            "prior_precision": None if isinstance(prior_precision, str) else prior_precision,
            "posterior_temperature": posterior_temperature,
            "tokens_per_batch": tokens_per_batch,
            "progress": progress and process.is_local_main_process,
        }
        if posterior == "last_layer":
            fitted = fit_last_layer(
                loaded, pairs, evaluated, pooling=pooling, head=chosen_head, standardize=standardize, **common
            )
        else:
            fitted = fit_lora(
                loaded,
                pairs,
                evaluated,
                posterior,
                per_layer=per_layer,
                max_rank=max_rank,
                center_rewards_coefficient=centering,
                seed=seed,
                checkpoint=checkpoint,
                **common,
            )
        contrast = fitted.contrast
        result = FitResult(
            posterior=fitted.posterior,
            num_pairs=len(rows),
            num_skipped=preferences.summary.num_skipped,
            num_truncated=int(pairs.encoded.truncated.sum()),
            num_prompt_truncated=int(pairs.encoded.prompt_truncated.sum()),
            train_accuracy=float((contrast > 0).float().mean() + 0.5 * (contrast == 0).float().mean()),
            held_out=fitted.held_out,
            output=None if output is None else Path(output),
            notes=(*_notes(fitted.posterior, loaded), *_held_out_notes(fitted.held_out)),
        )
        process.wait_for_everyone()  # others may still be reading the model from the folder to be replaced
        if folder is not None:
            loaded.save_pretrained(folder)
            _write_card(folder, source, loaded, result, preferences.summary.source)
            figures = {key: value for key, value in result.to_dict().items() if key.startswith(("num_", "train_"))}
            save_posterior(
                fitted.posterior,
                loaded,
                folder,
                fitted_on={
                    "data": preferences.summary.source,
                    **figures,
                    "prior_precision_by": prior_precision if isinstance(prior_precision, str) else "given",
                    **({} if posterior == "last_layer" else {"center_rewards_coefficient": centering, "seed": seed}),
                    **({"max_rank": max_rank} if posterior in ("kron", "ekfac") else {}),
                },
                calibration=None if fitted.held_out is None else fitted.held_out.to_dict(),
            )
    if checkpoint is not None and process.is_main_process:
        checkpoint.remove()
    process.wait_for_everyone()
    return result


def _trained_centering(source: Path | None) -> float:
    """The centring coefficient of the run that trained a model, where prudent left its record beside it."""
    record = None if source is None else source / "training_result.json"
    if record is None or not record.is_file():
        return 0.0
    try:
        return float(json.loads(record.read_text(encoding="utf-8"))["settings"]["center_rewards_coefficient"])
    except (ValueError, KeyError, TypeError) as error:
        raise PosteriorError(
            f"{record} does not say how the model was trained ({error}); give center_rewards_coefficient"
        ) from error


def _require_options_of(posterior: PosteriorKind, given: dict[str, tuple[str, ...] | Literal[False]]) -> None:
    """Refuse options, said with the kinds that have them, which this kind would ignore."""
    for option, kinds in given.items():
        if kinds and posterior not in kinds:
            raise UnsupportedError(f"posterior {posterior!r} has no option {option}; it is for {', '.join(kinds)}")


def _load(
    data: Any, split: str, eval_data: Any, eval_split: str | None, *, on_bad: OnBad
) -> tuple[Preferences, Preferences | None]:
    """The pairs to fit on and those held out, which share no prompt."""
    if eval_data is None and eval_split is not None:
        check_eval_split(data, eval_split, split=split)
        eval_data = data
    elif eval_data is not None and not isinstance(eval_data, Preferences):
        eval_split = choose_split(eval_data, eval_split, held_out=True)
    preferences = data if isinstance(data, Preferences) else load_preferences(data, split=split, on_bad=on_bad)
    if eval_data is None:
        return preferences, None
    held_out = (
        eval_data
        if isinstance(eval_data, Preferences)
        else load_preferences(eval_data, split=eval_split or "train", on_bad=on_bad)
    )
    return preferences, check_leak(preferences, held_out, on_bad=on_bad)


def _write_card(folder: Path, source: Path | None, model: RewardModel, result: FitResult, data: str) -> None:
    place = None if source is None else source / "README.md"
    # A card that prudent did not write speaks of another model, the base or one made elsewhere.
    existing = place.read_text(encoding="utf-8") if place is not None and place.is_file() else ""
    card = card_with_posterior(
        existing if "- prudent\n" in existing else None,
        result,
        library="peft" if hasattr(model.model, "peft_config") else "transformers",
        base=model.base_name_and_revision()[0],
        data=data,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _notes(posterior: LastLayerPosterior | LoraLaplacePosterior, model: RewardModel) -> Iterator[str]:
    if isinstance(posterior, LoraLaplacePosterior):
        yield from _lora_notes(posterior, model)
        return
    if posterior.prior_precision >= 0.5 * MAX_PRIOR_PRECISION:
        yield (
            "the evidence prefers the strongest prior considered: these pairs tell next to nothing about the reward, "
            "and rules that subtract a standard deviation will go by the variance alone"
        )
    if posterior.pooling == "mean":
        yield ("mean pooling: the posterior carries its own head, so plain Transformers gives other rewards here")
    head = {name for name, module in model.model.named_modules() if module is model.head}
    below = [name for name in model.new_modules if name not in head]
    if below and posterior.pooling == "head":
        yield (
            f"new and never trained below the head: {', '.join(below)}; the features pass through weights drawn by the "
            "seed, so train the model first, or take mean pooling"
        )


def _held_out_notes(figures: HeldOutFigures | None) -> Iterator[str]:
    if figures is not None and figures.nll > math.log(2):
        yield (
            f"on the held-out pairs the whole posterior predicts worse than a coin ({figures.nll:.4f} against "
            f"{math.log(2):.4f} nats)"
        )
    if figures is not None and figures.chose_prior and figures.num_pairs < _FEW_PAIRS:
        yield f"only {figures.num_pairs} held-out pairs chose the prior precision; others may choose another"
    if figures is not None and figures.prior_precision_scale in (min(PRIOR_SCALES), max(PRIOR_SCALES)):
        end = "weakest" if figures.prior_precision_scale < 1 else "strongest"
        yield f"the held-out pairs prefer the {end} prior tried; what suits them best may lie further off"


def _lora_notes(posterior: LoraLaplacePosterior, model: RewardModel) -> Iterator[str]:
    fixed = held_fixed(model, find_blocks(model))
    if fixed:
        more = f" and {len(fixed) - 3} more" if len(fixed) > 3 else ""
        yield f"trained along but held fixed in the posterior: {', '.join(fixed[:3])}{more}"
    low, high = PRIOR_BOUNDS
    ends = sum(not 1.1 * low < prior < high / 1.1 for prior in posterior.prior_precisions)
    if ends:
        yield (
            f"the evidence has no maximum within {low:g} to {high:g} for the prior precision of {ends} of "
            f"{len(posterior.prior_precisions)} weight matrices; what these contribute to the variance means little"
        )
    if posterior.jitter > 1e-5:
        yield (
            f"ill-conditioned curvature: a factor was mended by {posterior.jitter:.1g} of its largest eigenvalue; "
            "load the model in float32 if it is not"
        )
