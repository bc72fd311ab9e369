"""`fit`: a posterior for any reward model from a preference set, in one pass over its texts."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from prudent.data import load_preferences
from prudent.errors import PosteriorError
from prudent.models import Message, Pooling, RewardModel, atomic_folder, progress_bar
from prudent.posteriors._card import card_with_posterior
from prudent.posteriors._last_layer import HeadChoice, LastLayerPosterior
from prudent.posteriors._logistic import MAX_PRIOR_PRECISION
from prudent.posteriors._store import save_posterior

__all__ = ["FitResult", "PosteriorKind", "fit"]

PosteriorKind = Literal["last_layer"]


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
        output: folder written, if any.
        notes: what a user should know about this fit, a sentence each.
    """

    posterior: LastLayerPosterior
    num_pairs: int
    num_skipped: int
    num_truncated: int
    num_prompt_truncated: int
    train_accuracy: float
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
    posterior: PosteriorKind = "last_layer",
    pooling: Pooling = "head",
    head: HeadChoice = "refit",
    standardize: bool = True,
    prior_precision: float | None = None,
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

    Args:
        model: a loaded model, a folder, or a hub name. A loaded model whose head is refitted is changed.
        data: preferences in any form that `prudent.data.load_preferences` takes.
        output: folder to save model and posterior to; with `overwrite` it may be the model's own
            folder, whose head and posterior are then replaced.
        split: the split of data that have several.
        posterior: the kind.
        pooling: what the last layer reads. With `mean` the posterior carries its own head, since a plain Transformers
            classifier cannot average: then the folder's plain rewards differ from the posterior mean.
        head: `refit` moves the head to the posterior mode (it is saved, so that plain Transformers gives the same
            mean), `kept` leaves it as trained.
        standardize: put the isotropic prior on standardised features.
        prior_precision: fixed, or None for the one of highest evidence.
        posterior_temperature: factor on the posterior covariance, 1 is Bayes.
        max_length: tokens a text may have.
        tokens_per_batch: padded tokens of a batch.
        strict: an over-long text is an error.
        skip_bad: leave faulty rows out instead of stopping.
        overwrite: replace an existing output folder.
        seed: of what is new where the model is a base: its head, which is of no consequence once refitted, and with
            some encoders a pooler or dense layer below it, which stays as it was drawn.
        progress: show a bar.

    Raises:
        DataError: the preferences are faulty.
        ModelError: the model cannot be loaded.
        PosteriorError: fewer than two pairs, features not finite, or a new head that would be kept.
    """
    if posterior not in get_args(PosteriorKind):
        raise PosteriorError(f"there is no posterior {posterior!r}; known: {', '.join(get_args(PosteriorKind))}")
    preferences = load_preferences(data, split=split, on_bad="skip" if skip_bad else "error")
    rows = preferences.rows
    if len(rows) < 2:
        raise PosteriorError(f"a posterior needs at least two preference pairs, there are {len(rows)}")
    source = None if isinstance(model, RewardModel) else Path(model)
    with atomic_folder(output, overwrite=overwrite) as folder:
        loaded = (
            model
            if isinstance(model, RewardModel)
            else RewardModel.from_pretrained(model, max_length=max_length, seed=seed)
        )
        if loaded.head_is_new and head == "kept":
            raise PosteriorError(
                f"{source or 'the model'} has no trained head to keep; train it first or let it be refitted"
            )
        prompts, responses, names, chosen_index, rejected_index = _unique_texts(rows)
        encoded = loaded.encode(prompts, responses, strict=strict, names=names)
        with progress_bar("Reading pairs", len(encoded), unit="texts", enabled=progress) as advance:
            features, _ = loaded.features(encoded, pooling=pooling, tokens_per_batch=tokens_per_batch, advance=advance)
        head_weight, head_bias = loaded.head_values()
        fitted = LastLayerPosterior.fit(
            features[chosen_index],
            features[rejected_index],
            label=_column(rows, "p_chosen"),
            margin=_column(rows, "margin"),
            pooling=pooling,
            head=head,
            head_weight=head_weight,
            head_bias=head_bias,
            standardize=standardize,
            prior_precision=prior_precision,
            posterior_temperature=posterior_temperature,
        )
        if head == "refit" and pooling == "head":
            loaded.set_head(fitted.weight, fitted.bias)
            # What is saved is rounded to the head's dtype; the posterior's mean is what the model then computes.
            head_weight, head_bias = loaded.head_values()
            fitted = replace(fitted, weight=head_weight, bias=head_bias or 0.0)
        contrast = (features[chosen_index] - features[rejected_index]) @ fitted.weight
        result = FitResult(
            posterior=fitted,
            num_pairs=len(rows),
            num_skipped=preferences.summary.num_skipped,
            num_truncated=int(encoded.truncated.sum()),
            num_prompt_truncated=int(encoded.prompt_truncated.sum()),
            train_accuracy=float((contrast > 0).float().mean() + 0.5 * (contrast == 0).float().mean()),
            output=None if output is None else Path(output),
            notes=tuple(_notes(fitted, loaded)),
        )
        if folder is not None:
            loaded.save_pretrained(folder)
            _write_card(folder, source, loaded, result, preferences.summary.source)
            figures = {key: value for key, value in result.to_dict().items() if key.startswith(("num_", "train_"))}
            save_posterior(fitted, loaded, folder, fitted_on={"data": preferences.summary.source, **figures})
    return result


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


def _notes(posterior: LastLayerPosterior, model: RewardModel) -> Iterator[str]:
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


def _unique_texts(rows: Any) -> tuple[list[list[Message]], list[list[Message]], list[str], Tensor, Tensor]:
    """Every distinct (prompt, response) once, where it first stands, and where those of each pair are among them."""
    seen: dict[str, int] = {}
    prompts: list[list[Message]] = []
    responses: list[list[Message]] = []
    names: list[str] = []
    known_prompts: dict[str, list[Message]] = {}
    positions: dict[str, list[int]] = {"chosen": [], "rejected": []}
    for row in rows:
        prompt_key = json.dumps(row["prompt"])
        prompt = known_prompts.setdefault(prompt_key, row["prompt"])
        for side, found in positions.items():
            key = prompt_key + json.dumps(row[side])
            if key not in seen:
                seen[key] = len(prompts)
                prompts.append(prompt)
                responses.append(row[side])
                names.append(f"row {row['row']}, {side}")
            found.append(seen[key])
    return prompts, responses, names, torch.tensor(positions["chosen"]), torch.tensor(positions["rejected"])


def _column(rows: Any, name: str) -> Tensor | None:
    return torch.tensor(rows[name], dtype=torch.float64) if name in rows.column_names else None
