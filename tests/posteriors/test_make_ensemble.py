"""Reward models made apart, joined on one scale: against scipy's likelihood and the members read one by one."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from prudent.errors import DataError, ModelError, PosteriorError
from prudent.models import RewardModel
from prudent.posteriors import ensemble, fit, is_ensemble, load_scorer
from prudent.training import TrainingConfig, train

Pairs = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folders(tiny_models: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Models of two families, a decoder and an encoder with tokenizers of their own, on scales far apart."""
    found = []
    for kind, size in (("llama", 20.0), ("bert", 0.5)):
        model = RewardModel.from_pretrained(tiny_models(kind))
        weight, bias = model.head_values()
        model.set_head(size * weight, 3.0 if bias is not None else 0.0)
        found.append(tmp_path_factory.mktemp("members") / kind)
        model.save_pretrained(found[-1])
    return found


def differences(folder: Path, pairs: Pairs) -> Tensor:
    model = RewardModel.from_pretrained(folder)
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (model.rewards(prompts, [pair[side] for pair in pairs]) for side in ("chosen", "rejected"))
    return (chosen - rejected).double()


def swapped(pair: dict[str, Any]) -> dict[str, Any]:
    return {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}


@pytest.fixture(scope="module")
def pairs(folders: list[Path], many_pairs: Pairs) -> Pairs:
    """120 pairs labelled by both models: each knows a part of the truth."""
    chosen = many_pairs[:120]
    unit = [one / one.square().mean().sqrt() for one in (differences(folder, chosen) for folder in folders)]
    probability = torch.sigmoid(1.5 * sum(unit))
    won = torch.rand(len(chosen), generator=torch.Generator().manual_seed(0)) < probability
    return [pair if first else swapped(pair) for pair, first in zip(chosen, won.tolist(), strict=True)]


def nll(logit: Tensor) -> float:
    return float(torch.nn.functional.softplus(-logit).mean())


def test_members_of_two_families_are_put_on_the_scale_of_highest_likelihood(
    folders: list[Path], pairs: Pairs, lora_texts: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    result = ensemble(folders, tmp_path / "both", data=pairs, progress=False)
    found = [differences(folder, pairs) for folder in folders]
    for member, difference in zip(result.members, found, strict=True):
        best = minimize_scalar(lambda log, d=difference: nll(math.exp(log) * d), bounds=(-8, 8), method="bounded")
        assert member.scale == pytest.approx(math.exp(best.x), rel=5e-3)
        assert member.temperature == pytest.approx(1 / member.scale)
        assert member.accuracy == pytest.approx(float((torch.sign(difference) + 1).mean() / 2))
        assert member.nll_before == pytest.approx(nll(difference), rel=1e-4)
        assert member.nll_after == pytest.approx(best.fun, rel=1e-4)
        assert member.nll_after < math.log(2)
    assert [member.name for member in result.members] == ["llama", "bert"]
    scaled = torch.stack([member.scale * one for member, one in zip(result.members, found, strict=True)])
    assert result.figures is not None
    assert result.figures.nll_map == pytest.approx(nll(scaled.mean(0)), rel=1e-4)
    assert result.figures.accuracy == pytest.approx(float((torch.sign(scaled.mean(0)) + 1).mean() / 2))
    # E sigma(mean + spread * z) by quadrature.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    logits = scaled.mean(0)[:, None] + scaled.std(0)[:, None] * torch.from_numpy(nodes)
    moderated = (torch.sigmoid(logits) * torch.from_numpy(weights)).sum(1) / math.sqrt(2 * math.pi)
    assert result.figures.nll == pytest.approx(float(-moderated.log().mean()), rel=1e-3)

    scorer = load_scorer(tmp_path / "both")
    texts = scorer.encode(*lora_texts)
    prediction = scorer.predict(texts, group=torch.zeros(12, dtype=torch.int64), reference_weight=torch.zeros(12))
    alone = torch.stack(
        [
            member.scale * RewardModel.from_pretrained(folder).rewards(*lora_texts) + member.offset
            for member, folder in zip(result.members, folders, strict=True)
        ],
        1,
    )
    torch.testing.assert_close(prediction.members, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.mean, alone.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.variance, alone.var(1), rtol=1e-3, atol=1e-5)


def test_offsets_bring_the_mean_reward_of_the_texts_to_zero(folders: list[Path], pairs: Pairs, tmp_path: Path) -> None:
    result = ensemble(folders, tmp_path / "both", data=pairs, progress=False)
    unique = list({(pair["prompt"], pair[side]) for pair in pairs for side in ("chosen", "rejected")})
    assert len(unique) < 256
    for member, folder in zip(result.members, folders, strict=True):
        rewards = RewardModel.from_pretrained(folder).rewards([one[0] for one in unique], [one[1] for one in unique])
        assert float(member.scale * rewards.mean() + member.offset) == pytest.approx(0, abs=1e-4)


def test_a_members_own_posterior_is_scaled_along(folders: list[Path], pairs: Pairs, tmp_path: Path) -> None:
    fit(folders[0], pairs, tmp_path / "own", head="kept", prior_precision=5.0, progress=False)
    result = ensemble([tmp_path / "own", folders[1]], tmp_path / "both", data=pairs, progress=False)
    assert [member.posterior for member in result.members] == ["last_layer", "none"]
    scorer, own = load_scorer(tmp_path / "both"), load_scorer(tmp_path / "own")
    contrasts = own.contrasts(own.encode_pairs(load(pairs)))
    found = scorer.contrasts(scorer.encode_pairs(load(pairs)))
    means = torch.stack(
        [result.members[0].scale * contrasts.mean, result.members[1].scale * differences(folders[1], pairs)]
    )
    # Law of total variance: spread over two members, and half of the variance that one of them has.
    expected = means.var(0) + result.members[0].scale ** 2 * contrasts.variance / 2
    torch.testing.assert_close(found.variance, expected, rtol=1e-3, atol=1e-6)


def load(pairs: Pairs) -> Any:
    from prudent.data import load_preferences

    return load_preferences(pairs).rows


def test_members_inside_move_with_the_folder_and_it_can_be_made_again(
    folders: list[Path], pairs: Pairs, tmp_path: Path
) -> None:
    inside = [tmp_path / "home" / name for name in ("first", "second")]
    for folder, place in zip(folders, inside, strict=True):
        shutil.copytree(folder, place)
    ensemble(inside, tmp_path / "home", data=pairs, progress=False)
    (tmp_path / "home").rename(tmp_path / "moved")
    config = json.loads((tmp_path / "moved" / "posterior_config.json").read_text())
    assert [member["path"] for member in config["members"]] == ["./first", "./second"]
    assert load_scorer(tmp_path / "moved").kind == "ensemble"
    card = (tmp_path / "moved" / "README.md").read_text()
    assert "Ensemble of 2 reward models" in card
    again = [tmp_path / "moved" / name for name in ("first", "second")]
    with pytest.raises(PosteriorError, match="holds an ensemble already"):
        ensemble(again, tmp_path / "moved", data=pairs, progress=False)
    ensemble(again, tmp_path / "moved", data=pairs[:60], overwrite=True, progress=False)
    (tmp_path / "moved" / "notes.txt").write_text("mine")
    with pytest.raises(PosteriorError, match=r"holds notes.txt, which is no member"):
        ensemble(again, tmp_path / "moved", data=pairs, overwrite=True, progress=False)


def test_members_that_cannot_stand_for_draws_of_one_reward_are_named(
    folders: list[Path], pairs: Pairs, tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    def refused(members: list[Any], error: type[Exception], message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            ensemble(members, tmp_path / "out", **{"data": pairs, "progress": False, **options})
        assert not (tmp_path / "out").exists()

    refused([folders[0]], PosteriorError, "at least two members, one was given")
    refused([folders[0], str(folders[0]) + "/"], PosteriorError, "llama.* is given twice")
    shutil.copytree(folders[0], tmp_path / "copy")
    refused([folders[0], tmp_path / "copy"], PosteriorError, "members llama and copy are the same model")
    refused([folders[0], tmp_path / "nothing"], ModelError, "member .*nothing")
    refused(folders, DataError, "has 9 pairs; calibration needs at least 10", data=pairs[:9])
    refused(folders, PosteriorError, "come from different models .* calibrate them on preferences", data=None)
    refused([folders[0], tiny_models("llama", head=False)], ModelError, "its head was never trained")
    two = RewardModel.from_pretrained(folders[1])
    weight, bias = two.head_values()
    two.set_head(-weight, bias or 0.0)
    two.save_pretrained(tmp_path / "negated")
    refused([folders[0], tmp_path / "negated"], PosteriorError, r"member negated ranks .*% .* direction is reversed")
    two.set_head(0 * weight, 1.0)
    two.save_pretrained(tmp_path / "constant")
    refused([folders[0], tmp_path / "constant"], PosteriorError, "member constant gives both responses")
    outputs = json.loads((folders[0] / "config.json").read_text()) | {"id2label": {"0": "a", "1": "b"}}
    shutil.copytree(folders[0], tmp_path / "two")
    (tmp_path / "two" / "config.json").write_text(json.dumps(outputs))
    refused([folders[1], tmp_path / "two"], ModelError, "member two: .* has 2 outputs")
    ensemble(folders, tmp_path / "inner", data=pairs, progress=False)
    refused([folders[0], tmp_path / "inner"], PosteriorError, "member inner .*is itself an ensemble")


def test_a_member_that_changed_is_named_when_the_ensemble_is_loaded(
    folders: list[Path], pairs: Pairs, tmp_path: Path
) -> None:
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
    ensemble([tmp_path / "llama", tmp_path / "bert"], tmp_path / "both", data=pairs, progress=False)
    load_scorer(tmp_path / "both", dtype=torch.bfloat16)
    model = RewardModel.from_pretrained(tmp_path / "bert")
    weight, bias = model.head_values()
    model.set_head(1.1 * weight, bias or 0.0)
    model.save_pretrained(tmp_path / "bert")
    with pytest.raises(PosteriorError, match="the head of member bert changed"):
        load_scorer(tmp_path / "both")
    with torch.no_grad():
        next(iter(model.model.parameters())).add_(0.1)
    model.save_pretrained(tmp_path / "bert")
    with pytest.raises(PosteriorError, match="weights of member bert changed"):
        load_scorer(tmp_path / "both")
    shutil.rmtree(tmp_path / "bert")
    with pytest.raises(ModelError, match=r"member bert is missing: there is no folder .*bert; put it back"):
        load_scorer(tmp_path / "both")


def test_without_pairs_members_of_one_base_are_taken_as_they_are(
    lora_folders: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    result = ensemble([lora_folders("llama"), lora_folders("llama", seed=2)], tmp_path / "out", progress=False)
    assert [(member.scale, member.offset, member.accuracy) for member in result.members] == [(1.0, 0.0, None)] * 2
    assert result.notes == ("the members were not calibrated: their rewards are taken as logits as they are",)
    assert is_ensemble(tmp_path / "out")


def test_pairs_trained_on_and_rewards_that_are_no_logits_are_told(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    folders = []
    for seed, loss in enumerate(("bradley_terry", "classification")):
        config = TrainingConfig(loss=loss, seed=seed, max_steps=8, learning_rate=3e-3)  # type: ignore[arg-type]
        folders.append(tmp_path / loss)
        train(tiny_models("llama"), pairs, folders[-1], config=config, progress=False)
    with pytest.raises(PosteriorError, match=r"member classification was trained by classification.*no logits"):
        ensemble(folders, tmp_path / "out", progress=False)
    result = ensemble(folders, tmp_path / "out", data=pairs, progress=False)
    assert any("bradley_terry, classification were trained on these very pairs" in note for note in result.notes)
