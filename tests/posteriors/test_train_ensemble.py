"""Ensembles trained from one model, and posteriors for their members: figures against members read one by one."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prudent.data import load_preferences, resample_prompts
from prudent.errors import DataError, ModelError, PosteriorError, UnsupportedError
from prudent.models import RewardModel
from prudent.posteriors import _fit_ensemble as fitting
from prudent.posteriors import _train_ensemble as training
from prudent.posteriors import ensemble, fit, fit_ensemble, load_posterior, load_scorer, train_ensemble
from prudent.training import TrainingConfig, data_digest

Pairs = list[dict[str, Any]]
CONFIG = TrainingConfig(max_steps=6, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=2, seed=3)
QUIET: dict[str, Any] = {"config": CONFIG, "progress": False}


def rows(count: int, seed: int, prompt: str) -> Pairs:
    generator = np.random.default_rng(seed)

    def reply(word: str) -> str:
        return " ".join([*generator.choice(["apple", "pear", "river", "stone"], int(generator.integers(2, 7))), word])

    return [
        {"prompt": f"{prompt} {' '.join(generator.choice(['one', 'two', 'three', 'four'], 3))}"}
        | {"chosen": reply("warm"), "rejected": reply("cold")}
        for _ in range(count)
    ]


PAIRS, HELD_OUT = rows(24, 0, "tell me about"), rows(12, 1, "name")


@pytest.fixture(scope="module")
def trained(tiny_models: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "ensemble"
    train_ensemble(tiny_models("llama", head=False), PAIRS, output, num_members=2, eval_data=HELD_OUT, **QUIET)
    return output


def rewards(folder: Path, pairs: Pairs, side: str) -> Tensor:
    return RewardModel.from_pretrained(folder).rewards([p["prompt"] for p in pairs], [p[side] for p in pairs]).double()


def test_the_ensemble_is_its_members_and_its_figures_are_those_of_their_mean(
    trained: Path, tiny_models: Callable[..., Path]
) -> None:
    members = [trained / "member_0", trained / "member_1"]
    scorer = load_scorer(trained)
    texts = scorer.encode([p["prompt"] for p in HELD_OUT], [p["chosen"] for p in HELD_OUT])
    found = scorer.predict(texts, group=torch.arange(12), reference_weight=torch.zeros(12))
    alone = torch.stack([rewards(member, HELD_OUT, "chosen") for member in members], 1)
    torch.testing.assert_close(found.members.double(), alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.variance.double(), alone.var(1), rtol=1e-3, atol=1e-5)
    assert (alone.var(1) > 0).all()
    again = train_ensemble(tiny_models("llama", head=False), PAIRS, trained, num_members=2, eval_data=HELD_OUT, **QUIET)
    assert again.already_finished
    assert again.figures is not None
    contrast = (alone - torch.stack([rewards(member, HELD_OUT, "rejected") for member in members], 1)).mean(1)
    assert again.figures.accuracy == pytest.approx(float((contrast > 0).double().mean()))
    assert again.figures.nll_map == pytest.approx(float(torch.nn.functional.softplus(-contrast).mean()), rel=1e-4)
    config = json.loads((trained / "posterior_config.json").read_text())
    assert config["fitted_on"]["seeds"] == [3, 4]
    assert [member["path"] for member in config["members"]] == ["./member_0", "./member_1"]
    assert "by 2 seeds" in (trained / "README.md").read_text()


def test_a_bootstrap_resamples_by_the_seed_of_each_member_and_is_recorded(
    tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    result = train_ensemble(
        tiny_models("llama", head=False), PAIRS, tmp_path / "out", num_members=2, bootstrap=True, **QUIET
    )
    pairs = load_preferences(PAIRS)
    for place, member in enumerate(result.members):
        expected = resample_prompts(pairs, 3 + place)
        assert member.num_pairs == len(expected)
        assert member.settings["data"] == data_digest(expected.rows)
    config = json.loads((tmp_path / "out" / "posterior_config.json").read_text())
    assert config["fitted_on"]["bootstrap"] is True
    assert config["fitted_on"]["data"][1].endswith("(prompts resampled by seed 4)")
    with pytest.raises(ModelError, match="finished run with other settings"):
        train_ensemble(tiny_models("llama", head=False), PAIRS, tmp_path / "out", num_members=2, **QUIET)
    same = [pair | {"prompt": "tell"} for pair in PAIRS]
    with pytest.raises(DataError, match="have the same prompt"):
        train_ensemble("no-model", same, tmp_path / "x", num_members=2, bootstrap=True, **QUIET)


def test_members_get_posteriors_of_their_own_and_a_broken_off_call_keeps_those_it_fitted(
    tiny_models: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / "out"
    fitted: list[str] = []

    def counted(model: Path, *arguments: Any, **options: Any) -> Any:
        if len(fitted) == 1 and model.name == "member_1":
            fitted.append("broken off")
            raise PosteriorError("the disk is full")
        fitted.append(model.name)
        return fit(model, *arguments, **options)

    monkeypatch.setattr(training, "fit", counted)
    options = {"num_members": 2, "posterior": "diag", "bootstrap": True, "eval_data": HELD_OUT, **QUIET}
    with pytest.raises(PosteriorError, match=r"are trained .* the posterior of member_1 is not fitted: the disk"):
        train_ensemble(base, PAIRS, output, **options)
    assert not (output / "posterior_config.json").exists()
    # Whoever says overwrite each time loses nothing.
    result = train_ensemble(base, PAIRS, output, overwrite=True, **options)
    assert fitted == ["member_0", "broken off", "member_1"]
    assert all(member.already_finished for member in result.members)
    assert not result.already_finished
    assert train_ensemble(base, PAIRS, output, **options).already_finished
    scorer = load_scorer(output)
    pairs = load_preferences(HELD_OUT).rows
    means, within = [], []
    for place, member in enumerate(("member_0", "member_1")):
        model = RewardModel.from_pretrained(output / member)
        own = fit(model, resample_prompts(load_preferences(PAIRS), 3 + place), posterior="diag", progress=False)
        assert load_posterior(output / member, model).basis_id == own.posterior.basis_id
        alone = load_scorer(output / member)
        contrasts = alone.contrasts(alone.encode_pairs(pairs))
        means.append(contrasts.mean)
        within.append(contrasts.variance)
    found = scorer.contrasts(scorer.encode_pairs(pairs))
    expected = torch.stack(means).var(0) + torch.stack(within).mean(0)
    torch.testing.assert_close(found.variance, expected, rtol=1e-3, atol=1e-8)
    with pytest.raises(PosteriorError, match="member_0 holds a posterior diag"):
        train_ensemble(base, PAIRS, output, **{**options, "posterior": "kron"})


def test_an_ensemble_is_fitted_member_by_member_into_a_new_folder(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "fitted"
    options: dict[str, Any] = {"posterior": "diag", "eval_data": HELD_OUT, "prior_precision": 20.0}

    @functools.wraps(fit)
    def stopped(model: Path, *arguments: Any, **more: Any) -> Any:
        if Path(model).name == "member_1":
            raise KeyboardInterrupt
        return fit(model, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit_ensemble(trained, PAIRS, output, **options)
    assert "Member 1 of 2: Reading pairs" in capfd.readouterr().err
    with pytest.raises(PosteriorError, match="unfinished fit of an ensemble with another options"):
        fit_ensemble(trained, PAIRS, output, **{**options, "prior_precision": 2.0})
    result = fit_ensemble(trained, PAIRS, output, progress=False, **options)
    assert result.members[0] is None
    assert result.members[1] is not None
    assert result.members[1].output == output / "member_1"
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md",
        "member_0",
        "member_1",
        "posterior.safetensors",
        "posterior_config.json",
    ]
    before, after = load_scorer(trained), load_scorer(output)
    pairs = load_preferences(HELD_OUT).rows
    spread, total = (scorer.contrasts(scorer.encode_pairs(pairs)) for scorer in (before, after))
    torch.testing.assert_close(total.mean, spread.mean, rtol=1e-4, atol=1e-6)
    assert (total.variance > spread.variance).all()
    assert result.figures is not None
    with pytest.raises(PosteriorError, match="already holds files"):
        fit_ensemble(trained, PAIRS, output, progress=False, **options)
    fit_ensemble(trained, PAIRS, output, progress=False, overwrite=True, **(options | {"posterior": "last_layer"}))
    assert {member.scorer.kind for member in load_scorer(output).members} == {"last_layer"}  # type: ignore[union-attr]


def test_members_with_scales_have_their_heads_refitted_or_are_refused(trained: Path, tmp_path: Path) -> None:
    noisy = [*HELD_OUT[:9], *({**p, "chosen": p["rejected"], "rejected": p["chosen"]} for p in HELD_OUT[9:])]
    ensemble([trained / "member_0", trained / "member_1"], tmp_path / "scaled", data=noisy, progress=False)
    for options in ({"posterior": "diag"}, {"posterior": "last_layer", "head": "kept"}):
        with pytest.raises(PosteriorError, match=r"member_0 enters with a scale of .*before they are joined, or refit"):
            fit_ensemble(tmp_path / "scaled", "no-data", tmp_path / "out", progress=False, **options)  # type: ignore[arg-type]
    refitted = fit_ensemble(tmp_path / "scaled", PAIRS, tmp_path / "last", posterior="last_layer", progress=False)
    before, after = (
        [(member["scale"], member["offset"]) for member in json.loads(config.read_text())["members"]]
        for config in (tmp_path / folder / "posterior_config.json" for folder in ("scaled", "last"))
    )
    assert before != after == [(1.0, 0.0)] * 2
    assert "refitted to logits" in refitted.notes[0]


def test_what_is_fitted_is_never_what_is_replaced(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(2):
        shutil.copytree(trained / f"member_{place}", tmp_path / "home" / f"member_{place}")
    members = [tmp_path / "home" / f"member_{place}" for place in range(2)]
    ensemble(members, tmp_path / "home", progress=False)
    ensemble(members, tmp_path / "beside", progress=False)
    files = sorted(path for path in (tmp_path / "home").rglob("*"))
    options: dict[str, Any] = {"posterior": "last_layer", "overwrite": True, "progress": False}
    with pytest.raises(PosteriorError, match=r"home holds member member_0, which is to be fitted"):
        fit_ensemble(tmp_path / "beside", PAIRS, tmp_path / "home", **options)
    with pytest.raises(PosteriorError, match=r"inner lies in member member_0"):
        fit_ensemble(tmp_path / "beside", PAIRS, tmp_path / "home" / "member_0" / "inner", **options)
    with pytest.raises(TypeError, match="nonsense"):
        fit_ensemble(tmp_path / "beside", PAIRS, tmp_path / "new", nonsense=1, **options)
    assert sorted(path for path in (tmp_path / "home").rglob("*")) == files
    assert not list(tmp_path.glob("new*"))
    # An older ensemble stays whole until the new one is.
    fit_ensemble(tmp_path / "beside", PAIRS, tmp_path / "out", **options)
    old = load_scorer(tmp_path / "out").basis_id

    @functools.wraps(fit)
    def stopped(model: str, *arguments: Any, **more: Any) -> Any:
        if Path(model).name == "member_1":
            raise KeyboardInterrupt
        return fit(model, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit_ensemble(tmp_path / "beside", PAIRS, tmp_path / "out", prior_precision=3.0, **options)
    assert load_scorer(tmp_path / "out").basis_id == old
    # Batches and strictness may be others when it goes on.
    result = fit_ensemble(
        tmp_path / "beside",
        PAIRS,
        tmp_path / "out",
        prior_precision=3.0,
        tokens_per_batch=512,
        strict=True,
        **options,
    )
    assert [member is None for member in result.members] == [True, False]
    assert load_scorer(tmp_path / "out").basis_id != old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "home", "out"]
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(PosteriorError, match=r"files of something else \(notes.txt\)"):
        fit_ensemble(tmp_path / "beside", PAIRS, tmp_path / "out", **options)


def test_a_single_model_is_not_fitted_as_an_ensemble(trained: Path, tmp_path: Path) -> None:
    for place in (trained / "member_0", tmp_path / "nothing"):
        with pytest.raises(PosteriorError, match=r"is no ensemble; .* fit a single model with fit"):
            fit_ensemble(place, PAIRS, tmp_path / "out", posterior="last_layer", progress=False)


def test_posteriors_of_another_kind_are_dropped_with_overwrite_and_moved_heads_trained_again(
    tiny_models: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / "out"
    options: dict[str, Any] = {"num_members": 2, **QUIET}

    def stopped(model: Path, *arguments: Any, **more: Any) -> Any:
        if model.name == "member_1":
            raise KeyboardInterrupt
        return fit(model, *arguments, **more)

    def killed(posterior: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(training, "fit", stopped)
            with pytest.raises(KeyboardInterrupt):
                train_ensemble(base, PAIRS, output, posterior=posterior, overwrite=True, **options)  # type: ignore[arg-type]

    def kinds() -> list[str]:
        scorer = load_scorer(output)
        return [member.scorer.kind for member in scorer.members]  # type: ignore[union-attr]

    killed("diag")
    head = RewardModel.from_pretrained(output / "member_0").head_values()[0]
    with pytest.raises(PosteriorError, match="member_0 holds a posterior diag, and none is asked for"):
        train_ensemble(base, PAIRS, output, **options)
    killed("last_layer")
    moved = RewardModel.from_pretrained(output / "member_0").head_values()[0]
    assert not torch.equal(head, moved)
    # Its head is that of another posterior: what is asked for is about the one that was trained.
    result = train_ensemble(base, PAIRS, output, posterior="diag", overwrite=True, **options)
    assert kinds() == ["diag", "diag"]
    assert [run.already_finished for run in result.members] == [False, True]
    torch.testing.assert_close(RewardModel.from_pretrained(output / "member_0").head_values()[0], head)
    # As if killed after all members were fitted, before they were joined.
    (output / "posterior_config.json").unlink()
    result = train_ensemble(base, PAIRS, output, overwrite=True, **options)
    assert all(run.already_finished for run in result.members)
    assert kinds() == ["none", "none"]
    assert result.posterior is None


def test_what_cannot_be_made_is_said_before_data_or_models_are_read(trained: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            train_ensemble("no-model", "no-data", tmp_path / "out", **options)

    refused(PosteriorError, "num_members is 1; an ensemble needs at least 2", num_members=1)
    refused(UnsupportedError, "'heads' is not for the members of an ensemble", posterior="heads")
    refused(UnsupportedError, "LoRA weights", posterior="ekfac", config=TrainingConfig(lora=False))
    with pytest.raises(UnsupportedError, match="'heads' is not for the members"):
        fit_ensemble(trained, "no-data", tmp_path / "out", posterior="heads")  # type: ignore[arg-type]
    with pytest.raises(PosteriorError, match="give another output folder"):
        fit_ensemble(trained, PAIRS, trained, posterior="diag", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(PosteriorError, match="files of something else"):
        fit_ensemble(trained, PAIRS, tmp_path / "mine", posterior="diag", overwrite=True)


def test_an_ensemble_is_not_fitted_as_one_model_nor_classifiers_as_logits(
    trained: Path, tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(PosteriorError, match="is an ensemble; fit its members"):
        fit(trained, PAIRS, tmp_path / "out")
    config = TrainingConfig(loss="classification", max_steps=2, learning_rate=1e-2, lora_r=2)
    result = train_ensemble(
        tiny_models("llama", head=False), PAIRS, tmp_path / "classifiers", num_members=2, config=config, progress=False
    )
    assert "were trained by classification" in result.notes[0]
    member = result.output / "member_0"
    for options, told in (({"posterior": "diag"}, True), ({"head": "kept"}, True), ({}, False)):
        notes = fit(member, PAIRS, progress=False, **options).notes
        assert any("the model was trained by classification" in note for note in notes) == told
