"""`fit`: a posterior for any reward model from a preference set."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from prudent.data import OnBad, Preferences, check_eval_split, check_leak, choose_split, load_preferences
from prudent.errors import PosteriorError, UnsupportedError
from prudent.models import Pooling, RewardModel, atomic_folder
from prudent.posteriors._blocks import find_blocks
from prudent.posteriors._card import write_card
from prudent.posteriors._ensemble_places import is_ensemble
from prudent.posteriors._fit_heads import check_heads_options, fit_head_kind
from prudent.posteriors._fit_kinds import HeldOut, fit_last_layer, fit_lora
from prudent.posteriors._fit_notes import fit_notes
from prudent.posteriors._heads import Diversity, HeadArchitecture, HeadsPosterior
from prudent.posteriors._heads_losses import HeadsKind
from prudent.posteriors._held_out import HeldOutFigures
from prudent.posteriors._last_layer import HeadChoice, LastLayerPosterior
from prudent.posteriors._lora_fit import DEFAULT_MAX_RANK
from prudent.posteriors._lora_laplace import LoraLaplacePosterior, Structure
from prudent.posteriors._pair_texts import PairTexts, encode_pairs
from prudent.posteriors._processes import process_state
from prudent.posteriors._resume import SumsCheckpoint
from prudent.posteriors._scored_texts import ScoredTexts, encode_scored, load_scored
from prudent.posteriors._store import save_posterior
from prudent.posteriors._training_record import passed_on, training_settings

__all__ = ["FitResult", "PosteriorKind", "PriorChoice", "fit"]

PosteriorKind = Literal[
    "last_layer", "kron", "ekfac", "diag", "full", "heads", "classification", "mean_variance", "quantile"
]
"""`last_layer`: a Bayesian head on the features. `kron`, `ekfac`, `diag`, `full`: Laplace over LoRA weights and head,
by structure. The rest: M heads on the features, by what each is trained for."""

_LAST_LAYER = ("last_layer",)
_LAPLACE = (*_LAST_LAYER, *get_args(Structure))
_HEADS = get_args(HeadsKind)
_DEFAULT_NUM_MEMBERS = 10

PriorChoice = Literal["evidence", "held_out"]
"""The prior precision of highest evidence, or that under which held-out pairs are most likely."""


@dataclass(frozen=True)
class FitResult:
    """What `fit` made.

    Attributes:
        posterior: the fitted posterior.
        num_pairs: pairs used; for `quantile` those that `train_accuracy` is of: two responses to a prompt with
            different scores, at most 64 of a prompt.
        num_skipped: pairs left out as faulty.
        num_truncated: texts whose response was cut.
        num_prompt_truncated: texts whose prompt was cut.
        train_accuracy: share of the pairs fitted on whose chosen response has the higher posterior mean.
        held_out: figures on held-out pairs, where there were any.
        num_responses: for `quantile`: responses used, each with its score; else None.
        output: folder written, if any.
        notes: what a user should know about this fit, a sentence each.
    """

    posterior: LastLayerPosterior | LoraLaplacePosterior | HeadsPosterior
    num_pairs: int
    num_skipped: int
    num_truncated: int
    num_prompt_truncated: int
    train_accuracy: float
    held_out: HeldOutFigures | None
    num_responses: int | None
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
    num_members: int = _DEFAULT_NUM_MEMBERS,
    architecture: HeadArchitecture = "linear",
    bootstrap: bool = True,
    diversity: Diversity = "anchor",
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
        data: preferences, loaded or in any form that `prudent.data.load_preferences` takes; for `quantile` pools with
            a `gold` score of every response, as `prudent.data.load_pools` takes them.
        output: folder to save model and posterior to; with `overwrite` it may be the model's own
            folder, whose head and posterior are then replaced.
        split: the split of data that have several.
        eval_data: held-out preferences: the prior precision that they prefer is reported beside that of highest
            evidence, with calibration figures, which are saved with the posterior. For kinds with members other prior
            precisions are tried only where the pairs are to choose; for `quantile` the pairs give the scale from scores
            to logits (`HeadsPosterior.with_logit_scale_for`); where they are ranked no better than by chance, rewards
            stay in units of the scores, and a note says so.
        eval_split: the split of the held-out data, by default as in `prudent.evaluation.evaluate`; without `eval_data`,
            the split of `data` to hold out.
        posterior: the kind. `kron`, `ekfac`, `diag` and `full` are about the weights of a LoRA adapter and the head,
            which stay as they are. `heads`, `classification`, `mean_variance` and `quantile` are M heads on the
            features; see `fit_heads` and `fit_quantile_heads`.
        pooling: what the last layer, or heads, read. With `mean` the posterior carries its own head, since a plain
            Transformers classifier cannot average: then the folder's plain rewards differ from the posterior mean.
        head: for `last_layer`: `refit` (the default) moves the head to the posterior mode (it is saved, so that plain
            Transformers gives the same mean), `kept` leaves it as trained. LoRA kinds always keep it; linear heads on
            what the model's own head reads replace it by their average, others leave it and carry theirs along.
        standardize: for `last_layer`: put the isotropic prior on standardised features.
        prior_precision: a number; or that of highest evidence; or that under which the held-out pairs are most likely.
        per_layer: for LoRA kinds but `full`: each weight matrix has its own prior precision.
        max_rank: for `kron` and `ekfac`: directions kept of the longer side of a weight matrix; the others share an
            average curvature.
        center_rewards_coefficient: for LoRA kinds: the one that the model was trained with; by default what
            `training_result.json` beside the model says, else none.
        posterior_temperature: factor on the posterior covariance, 1 is Bayes; not for kinds with members.
        num_members: for kinds with members: M, at least 2.
        architecture: for kinds with members: `linear`, or an `mlp` with two hidden layers of 128.
        bootstrap: for kinds with members: train each on prompts drawn with replacement.
        diversity: for kinds with members: pull each to a draw from the prior (`anchor`), or train it on top of such a
            draw (`prior_function`); for linear heads the two are the same.
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
            "pooling 'mean'": pooling != "head" and (*_LAST_LAYER, *_HEADS),
            "head 'refit'": head == "refit" and _LAST_LAYER,
            "head 'kept'": head == "kept" and _LAPLACE,
            "posterior_temperature": posterior_temperature != 1.0 and _LAPLACE,
            "num_members": num_members != _DEFAULT_NUM_MEMBERS and _HEADS,
            "architecture 'mlp'": architecture != "linear" and _HEADS,
            "bootstrap False": not bootstrap and _HEADS,
            "diversity 'prior_function'": diversity != "anchor" and _HEADS,
            "standardize False": not standardize and _LAST_LAYER,
            "max_rank": max_rank != DEFAULT_MAX_RANK and ("kron", "ekfac"),
            "per_layer": per_layer and ("kron", "ekfac", "diag"),
            "center_rewards_coefficient": bool(center_rewards_coefficient) and get_args(Structure),
        },
    )
    kind: Any = posterior
    if posterior in _HEADS:
        check_heads_options(kind, architecture, diversity, num_members, chosen=prior_precision == "held_out")
    load: Any = load_scored if posterior == "quantile" else _load
    loaded_data, held_out = load(data, split, eval_data, eval_split, on_bad="skip" if skip_bad else "error")
    rows = loaded_data.rows
    if len(rows) < 2 and posterior != "quantile":
        raise PosteriorError(f"a posterior needs at least two preference pairs, there are {len(rows)}")
    source = None if isinstance(model, RewardModel) else Path(model)
    if source is not None and is_ensemble(source):
        raise PosteriorError(f"{source} is an ensemble; fit its members, each by itself, by fit_ensemble")
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
        if posterior in get_args(Structure):
            find_blocks(loaded)  # what is not LoRA is refused before texts are read
        chosen_head: HeadChoice = head or ("kept" if posterior in get_args(Structure) else "refit")
        if loaded.head_is_new and chosen_head == "kept":
            raise PosteriorError(
                f"{source or 'the model'} has no trained head to keep; train it first or let it be refitted"
            )
        trained = training_settings(source)
        centering = center_rewards_coefficient
        if centering is None:
            centering = float(trained.get("center_rewards_coefficient", 0.0))
        encode: Any = encode_scored if posterior == "quantile" else encode_pairs
        texts: PairTexts | ScoredTexts = encode(loaded, rows, strict=strict)
        evaluated = None
        if held_out is not None:
            evaluated = HeldOut(
                encode_pairs(loaded, held_out.rows, strict=strict),
                held_out.summary.source,
                prior_precision == "held_out",
            )
        common: dict[str, Any] = {
            "prior_precision": None if isinstance(prior_precision, str) else prior_precision,
            "tokens_per_batch": tokens_per_batch,
            "progress": progress and process.is_local_main_process,
        }
        if isinstance(texts, ScoredTexts) or posterior in _HEADS:
            fitted = fit_head_kind(
                loaded,
                texts,
                evaluated,
                kind,
                num_members=num_members,
                architecture=architecture,
                bootstrap=bootstrap,
                diversity=diversity,
                pooling=pooling,
                seed=seed,
                **common,
            )
        elif posterior == "last_layer":
            fitted = fit_last_layer(
                loaded,
                texts,
                evaluated,
                pooling=pooling,
                head=chosen_head,
                standardize=standardize,
                posterior_temperature=posterior_temperature,
                **common,
            )
        else:
            fitted = fit_lora(
                loaded,
                texts,
                evaluated,
                kind,
                per_layer=per_layer,
                max_rank=max_rank,
                posterior_temperature=posterior_temperature,
                center_rewards_coefficient=centering,
                seed=seed,
                checkpoint=checkpoint,
                **common,
            )
        contrast = fitted.contrast
        result = FitResult(
            posterior=fitted.posterior,
            num_pairs=len(contrast),
            num_responses=len(texts) if isinstance(texts, ScoredTexts) else None,
            num_skipped=loaded_data.summary.num_skipped,
            num_truncated=int(texts.encoded.truncated.sum()),
            num_prompt_truncated=int(texts.encoded.prompt_truncated.sum()),
            train_accuracy=float((contrast > 0).float().mean() + 0.5 * (contrast == 0).float().mean()),
            held_out=fitted.held_out,
            output=None if output is None else Path(output),
            notes=tuple(fit_notes(fitted.posterior, loaded, fitted.held_out, trained.get("loss"))),
        )
        process.wait_for_everyone()  # others may still be reading the model from the folder to be replaced
        if folder is not None:
            loaded.save_pretrained(folder)
            write_card(folder, source, loaded, result, loaded_data.summary.source)
            figures = {key: value for key, value in result.to_dict().items() if key.startswith(("num_", "train_"))}
            save_posterior(
                fitted.posterior,
                loaded,
                folder,
                fitted_on={
                    "data": loaded_data.summary.source,
                    **figures,
                    "prior_precision_by": prior_precision if isinstance(prior_precision, str) else "given",
                    **(
                        {"center_rewards_coefficient": centering, "seed": seed}
                        if posterior in get_args(Structure)
                        else {}
                    ),
                    **({"max_rank": max_rank} if posterior in ("kron", "ekfac") else {}),
                    "training": passed_on(trained),
                },
                calibration=None if fitted.held_out is None else fitted.held_out.to_dict(),
            )
    if checkpoint is not None and process.is_main_process:
        checkpoint.remove()
    process.wait_for_everyone()
    return result


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
