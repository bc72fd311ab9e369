"""An ensemble of reward models against its members read one by one, and against the law of total variance."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prudent.data import load_preferences
from prudent.errors import ModelError, PosteriorError
from prudent.models import RewardModel
from prudent.posteriors import (
    EnsembleMember,
    EnsembleScorer,
    ModelScorer,
    PlainRewards,
    ScoredMember,
    fit,
    joint_rewards,
    load_members,
    load_scorer,
    save_ensemble,
)

SCALES = ((1.0, 0.0), (0.5, 1.0), (2.0, -0.25))


def members_of(folders: Sequence[Path]) -> list[EnsembleMember]:
    return [EnsembleMember(f"m{place}", folder, *SCALES[place % len(SCALES)]) for place, folder in enumerate(folders)]


def alone(members: Sequence[EnsembleMember], texts: tuple[list[str], list[str]]) -> Tensor:
    """Rewards `[N, M]` on the common scale, each member loaded by itself."""
    columns = [
        member.scale * RewardModel.from_pretrained(member.path).rewards(*texts) + member.offset for member in members
    ]
    return torch.stack(columns, 1)


def predicted(scorer: EnsembleScorer, texts: tuple[list[str], list[str]], **options: Any) -> Any:
    encoded = scorer.encode(*texts)
    group = torch.tensor([0] * 6 + [1] * 6)
    weight = torch.tensor([1.0, 1.0, 0, 0, 0, 2.0] + [0.0] * 6)
    return scorer.predict(encoded, group=group, reference_weight=weight, **options)


@pytest.fixture(scope="module")
def adapters(lora_folders: Callable[..., Path]) -> list[Path]:
    return [lora_folders("llama"), lora_folders("llama", seed=2), lora_folders("llama", r=3, seed=3)]


def test_members_are_what_they_are_alone_and_share_their_base(
    adapters: list[Path], lora_texts: tuple[list[str], list[str]]
) -> None:
    members = members_of(adapters)
    scorer = EnsembleScorer(load_members(members))
    models = [member.scorer.model for member in scorer.members]
    assert all(model.model is models[0].model for model in models)
    assert [model.fingerprint() for model in models] == [
        RewardModel.from_pretrained(folder).fingerprint() for folder in adapters
    ]
    found = predicted(scorer, lora_texts)
    expected = alone(members, lora_texts)
    assert (expected.var(1) > 1e-3).all()
    torch.testing.assert_close(found.members, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.mean, expected.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.variance, expected.var(1), rtol=1e-4, atol=1e-5)
    # against the average of the references, of which the sixth counts twice
    centred = expected[:6] - (expected[0] + expected[1] + 2 * expected[5]) / 4
    torch.testing.assert_close(found.centered_variance[:6], centred.var(1), rtol=1e-3, atol=1e-5)
    assert found.centered_variance[6:].isnan().all()
    torch.testing.assert_close(found.mean[:6] - found.reference_mean[:6], centred.mean(1), rtol=1e-4, atol=1e-5)


def test_each_member_can_still_be_read_with_gradients(
    adapters: list[Path], lora_texts: tuple[list[str], list[str]], lora_pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Laplace posteriors of members on one base: law of total variance, jointly."""
    folders = []
    for place, folder in enumerate(adapters):
        fit(folder, lora_pairs, tmp_path / f"m{place}", posterior="ekfac", prior_precision=30.0, progress=False)
        folders.append(tmp_path / f"m{place}")
    members = members_of(folders)
    scorer = EnsembleScorer(load_members(members))
    assert scorer.members[0].scorer.model.model is scorer.members[2].scorer.model.model
    found = predicted(scorer, lora_texts, with_factor=True)
    exact, total = [], 0.0
    for member in members:
        single = load_scorer(member.path)
        mean, factor = single.exact(single.encode(*lora_texts))
        exact.append(member.scale * mean.double() + member.offset)
        total = total + member.scale**2 * factor.double() @ factor.double().T / len(members)
    means = torch.stack(exact, 1)
    deviations = means - means.mean(1, keepdim=True)
    covariance = deviations @ deviations.T / (len(members) - 1) + total
    torch.testing.assert_close(found.variance.double(), covariance.diagonal(), rtol=1e-4, atol=1e-6)
    mean, factor = scorer.exact(scorer.encode(*lora_texts))
    torch.testing.assert_close(factor.double() @ factor.double().T, covariance, rtol=1e-4, atol=1e-5)
    contrast = torch.tensor([1.0, 0, 0, -1.0, 0, 0], dtype=torch.float64)
    stored = found.factor.double()[:6]
    assert found.factor.shape == (12, 256)
    assert (contrast @ stored).square().sum() == pytest.approx(float(contrast @ total[:6, :6] @ contrast), rel=0.5)
    # a prompt whose references lie elsewhere
    references = [lora_texts[0][row] for row in (0, 1, 5, 5)], [lora_texts[1][row] for row in (0, 1, 5, 5)]
    center = scorer.center(scorer.encode(*references))
    again = scorer.predict(
        scorer.encode(lora_texts[0][:6], lora_texts[1][:6]),
        group=torch.zeros(6, dtype=torch.long),
        reference_weight=torch.zeros(6),
        centers={0: center},
    )
    torch.testing.assert_close(again.centered_variance, found.centered_variance[:6], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(again.reference_mean, found.reference_mean[:6], rtol=1e-4, atol=1e-5)
    mixture = joint_rewards(scorer, *lora_texts)
    torch.testing.assert_close(mixture.covariance(torch.arange(6)), covariance[:6, :6], rtol=1e-4, atol=1e-5)


def test_contrasts_are_those_of_the_members(
    adapters: list[Path], tiny_models: Callable[..., Path], lora_pairs: list[dict[str, Any]]
) -> None:
    """Two adapters of one base, and a model of another family with another tokenizer."""
    members = members_of([*adapters[:2], tiny_models("bert")])
    scorer = EnsembleScorer(load_members(members))
    rows = load_preferences(lora_pairs).rows
    pairs = scorer.encode_pairs(rows)
    assert len(pairs.parts) == 2
    steps: list[int] = []
    found = scorer.contrasts(pairs, advance=steps.append)
    assert sum(steps) == len(rows)
    sides = [
        alone(members, ([row["prompt"] for row in rows], [row[side] for row in rows]))
        for side in ("chosen", "rejected")
    ]
    difference = (sides[0] - sides[1]).double()
    torch.testing.assert_close(found.mean, difference.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.variance, difference.var(1), rtol=1e-4, atol=1e-5)
    assert (found.noise == 0).all()


def test_what_is_saved_is_what_is_loaded(
    adapters: list[Path], lora_texts: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    inside = tmp_path / "ensemble"
    inside.mkdir()
    for place, folder in enumerate(adapters):
        shutil.copytree(folder, inside / f"member_{place}")
    members = [
        EnsembleMember(f"m{place}", inside / f"member_{place}", *SCALES[place]) for place in range(len(adapters))
    ]
    scorer = EnsembleScorer(load_members(members))
    save_ensemble(inside, scorer, [member.path for member in members], fitted_on={"data": "nothing"})
    moved = inside.rename(tmp_path / "moved")
    loaded = load_scorer(moved)
    assert isinstance(loaded, EnsembleScorer)
    assert loaded.basis_id == scorer.basis_id
    assert torch.equal(predicted(loaded, lora_texts).members, predicted(scorer, lora_texts).members)


def damaged_weights(folder: Path) -> None:
    (folder / "member_1" / "adapter_model.safetensors").write_bytes(b"nothing")


def other_weights(folder: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(folder / "member_0" / name, folder / "member_1" / name)


def other_tokenizer(folder: Path) -> None:
    path = folder / "member_1" / "tokenizer.json"
    described = json.loads(path.read_text())
    described["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(described))


def no_member(folder: Path) -> None:
    shutil.rmtree(folder / "member_1")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged_weights, r"member m1: cannot load"),
        (other_weights, r"the weights of member m1 changed"),
        (other_tokenizer, r"the tokenizer of member m1 changed"),
        (no_member, r"member m1 is missing: there is no folder"),
    ],
)
def test_a_member_that_is_not_what_it_was_is_named(
    damage: Callable[[Path], None], message: str, adapters: list[Path], tmp_path: Path
) -> None:
    for place, folder in enumerate(adapters[:2]):
        shutil.copytree(folder, tmp_path / f"member_{place}")
    members = [EnsembleMember(f"m{place}", tmp_path / f"member_{place}") for place in range(2)]
    scorer = EnsembleScorer(load_members(members))
    save_ensemble(tmp_path, scorer, [member.path for member in members], fitted_on={})
    damage(tmp_path)
    with pytest.raises((ModelError, PosteriorError), match=message):
        load_scorer(tmp_path)


def test_one_member_or_two_of_one_name_are_refused(adapters: list[Path]) -> None:
    model = RewardModel.from_pretrained(adapters[0])
    member = ScoredMember("only", ModelScorer(model, PlainRewards()))
    with pytest.raises(PosteriorError, match="at least two members, there is 1"):
        EnsembleScorer([member])
    with pytest.raises(PosteriorError, match="two members are called only"):
        EnsembleScorer([member, member])


def test_a_base_without_a_trained_head_is_no_member(adapters: list[Path], tiny_models: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="member m1: its head was never trained"):
        load_members(members_of([adapters[0], tiny_models("llama", head=False)]))
