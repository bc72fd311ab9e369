"""Reward models made apart, joined on one scale: against scipy's likelihood and the members read one by one."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from scipy.optimize import minimize_scalar
from torch import Tensor

from prudent.errors import DataError, ModelError, PosteriorError
from prudent.models import RewardModel
from prudent.posteriors import EnsembleMember, EnsembleScorer, ensemble, fit, is_ensemble, load_members, load_scorer
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
    refused(folders, PosteriorError, "llama has no record of its training by prudent.* by data", data=None)
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
    strangers = [lora_folders("llama"), lora_folders("llama", seed=2)]
    # Adapters of one base, but who knows by which loss.
    with pytest.raises(PosteriorError, match=r"has no record of its training by prudent.*by data"):
        ensemble(strangers, tmp_path / "out", progress=False)
    for place, stranger in enumerate(strangers):
        fit(stranger, pairs, tmp_path / f"kron_{place}", posterior="kron", progress=False)
        fit(stranger, pairs, tmp_path / f"last_{place}", progress=False)
    with pytest.raises(PosteriorError, match="kron_0 has no record of its training"):
        ensemble([tmp_path / "kron_0", tmp_path / "kron_1"], tmp_path / "out", progress=False)
    result = ensemble([tmp_path / "last_0", tmp_path / "last_1"], tmp_path / "out", progress=False)
    assert [(member.scale, member.offset, member.accuracy) for member in result.members] == [(1.0, 0.0, None)] * 2
    assert result.notes == ("the members were not calibrated: their rewards are taken as logits as they are",)
    assert is_ensemble(tmp_path / "out")
    adapter = tmp_path / "last_1" / "adapter_config.json"
    adapter.write_text(json.dumps(json.loads(adapter.read_text()) | {"revision": "other"}))
    with pytest.raises(PosteriorError, match=r"come from different models .* at other"):
        ensemble([tmp_path / "last_0", tmp_path / "last_1"], tmp_path / "two", progress=False)


def test_without_pairs_heads_must_be_of_logits(lora_folders: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    pools = [
        {"prompt": pair["prompt"], "responses": [pair["chosen"], pair["rejected"]], "gold": [40.0 + row % 7, 30.0]}
        for row, pair in enumerate(pairs[:20])
    ]
    for posterior, words in (("quantile", "has quantile heads.*no logits"), ("classification", "by classification")):
        members = [tmp_path / f"{posterior}_{place}" for place in range(2)]
        for place, member in enumerate(members):
            data: Any = pools if posterior == "quantile" else pairs[:20]
            fit(lora_folders("llama"), data, member, posterior=posterior, num_members=2, seed=place, progress=False)  # type: ignore[arg-type]
        with pytest.raises(PosteriorError, match=words):
            ensemble(members, tmp_path / "out", progress=False)


def test_without_pairs_models_trained_from_one_base_are_known_by_their_records(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    def trained(kind: str, name: str, seed: int) -> Path:
        config = TrainingConfig(seed=seed, max_steps=1, learning_rate=1e-3, lora=False)
        train(tiny_models(kind, head=False), pairs[:20], tmp_path / name, config=config, progress=False)
        return tmp_path / name

    full = [trained("llama", "first", 0), trained("llama", "second", 1)]
    ensemble(full, tmp_path / "out", progress=False)
    for member in full:  # what the training left goes along with a posterior in another folder
        fit(member, pairs[:20], tmp_path / f"fitted_{member.name}", head="kept", progress=False)
    ensemble([tmp_path / "fitted_first", tmp_path / "fitted_second"], tmp_path / "fitted", progress=False)
    with pytest.raises(PosteriorError, match=r"come from different models .* calibrate them on preferences"):
        ensemble([full[0], trained("bert", "third", 0)], tmp_path / "mixed", progress=False)


def test_a_call_killed_while_it_puts_its_files_in_place_can_be_repeated(
    folders: list[Path], pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble(folders, tmp_path / "out", data=pairs, progress=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    replace = os.replace

    for moves in range(3):
        done: list[Any] = []

        def dies(source: Any, target: Any, done: list[Any] = done, moves: int = moves) -> None:
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(target)
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dies)
            with pytest.raises(KeyboardInterrupt):
                ensemble(folders, tmp_path / "out", data=pairs[:80], overwrite=True, progress=False)
        assert not is_ensemble(tmp_path / "out")
        (tmp_path / "out" / ".posterior_config.json.123.tmp").touch()  # a kill that nothing can clear up after
        ensemble(folders, tmp_path / "out", data=pairs, overwrite=moves == 1, progress=False)
        assert load_scorer(tmp_path / "out").kind == "ensemble"
    assert all((tmp_path / "out" / name).read_bytes() == content for name, content in before.items())
    # What cannot be written leaves the old one as it is.
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space"):
            ensemble(folders, tmp_path / "out", data=pairs[:80], overwrite=True, progress=False)
    assert all((tmp_path / "out" / name).read_bytes() == content for name, content in before.items())
    # Files of a model are nobody's leftovers.
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("mine")
    with pytest.raises(PosteriorError, match=r"holds README.md, which is no member"):
        ensemble(folders, tmp_path / "model", data=pairs, overwrite=True, progress=False)


def test_the_length_that_members_were_joined_with_is_kept(folders: list[Path], pairs: Pairs, tmp_path: Path) -> None:
    ensemble(folders, tmp_path / "out", data=pairs, max_length=12, progress=False)

    def lengths(**options: Any) -> list[int]:
        scorer = load_scorer(tmp_path / "out", **options)
        assert isinstance(scorer, EnsembleScorer)
        assert [member.scorer.model.max_length for member in scorer.members] == scorer.identity()["max_length"]
        texts = scorer.encode(["one two three"], ["four " * 300])
        assert [int(texts.of(place).lengths[0]) for place in range(2)] == scorer.identity()["max_length"]
        return [member.scorer.model.max_length for member in scorer.members]

    assert lengths() == [12, 12]
    assert lengths(max_length=40) == [40, 40]
    config = json.loads((tmp_path / "out" / "posterior_config.json").read_text())
    for member in config["members"]:
        del member["max_length"], member["revision"]  # as written before there were any
    (tmp_path / "out" / "posterior_config.json").write_text(json.dumps(config))
    assert lengths() == [128, 128]


def test_the_member_named_is_the_one_whose_whole_path_is_told(folders: list[Path], tmp_path: Path) -> None:
    for place, name in enumerate(("member_1", "member_10")):
        shutil.copytree(folders[place], tmp_path / name)
    (tmp_path / "member_10" / "config.json").write_text("{")
    members = [EnsembleMember(f"the {name}", tmp_path / name) for name in ("member_1", "member_10")]
    with pytest.raises(ModelError, match=r"^member the member_10: "):
        load_members(members)
    (tmp_path / "member_1" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"^member the member_1: "):
        load_members(members)


class Hub:
    """A stand-in for the hub: repositories are folders, each at one commit; what was downloaded is noted."""

    def __init__(self, home: Path, repositories: dict[str, tuple[str, Path]]) -> None:
        self.home, self.repositories = home, repositories
        self.downloads: list[tuple[str, str | None]] = []

    def snapshot(self, name: str, revision: str | None) -> tuple[Path, Path]:
        if name not in self.repositories:
            raise OSError(f"404: there is no {name}")
        commit, source = self.repositories[name]
        assert revision in (None, commit)
        place = self.home / name.replace("/", "--") / "snapshots" / commit
        return source, place

    def hf_hub_download(self, name: str, file: str, *, revision: str | None = None) -> str:
        source, place = self.snapshot(name, revision)
        if not (source / file).exists():
            raise EntryNotFoundError("404")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / file, place / file)
        return str(place / file)

    def snapshot_download(
        self,
        name: str,
        *,
        revision: str | None = None,
        allow_patterns: list[str] | None = None,
        ignore_patterns: list[str] | None = None,
    ) -> str:
        source, place = self.snapshot(name, revision)
        self.downloads.append((name, revision))
        files = [str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()]
        wanted = filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        for file in wanted:
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, place / file)
        return str(place)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "cache", {})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def test_an_ensemble_on_the_hub_is_downloaded_with_its_members(
    folders: list[Path], pairs: Pairs, lora_texts: tuple[list[str], list[str]], tmp_path: Path, hub: Hub
) -> None:
    inside = [tmp_path / "home" / folder.name for folder in folders]
    for folder, place in zip(folders, inside, strict=True):
        shutil.copytree(folder, place)
    ensemble(inside, tmp_path / "home", data=pairs, progress=False)
    (tmp_path / "home" / "notes").mkdir()
    (tmp_path / "home" / "notes" / "large.bin").write_text("not asked for")
    hub.repositories["org/both"] = ("a" * 40, tmp_path / "home")
    assert is_ensemble("org/both")
    assert not is_ensemble("org/nothing")
    here, there = load_scorer(tmp_path / "home"), load_scorer("org/both")
    assert hub.downloads == [("org/both", "a" * 40)]
    assert not list((tmp_path / "cache").rglob("large.bin"))
    assert there.basis_id == here.basis_id
    found = [
        scorer.predict(scorer.encode(*lora_texts), group=torch.zeros(12).long(), reference_weight=torch.zeros(12)).mean
        for scorer in (here, there)
    ]
    assert torch.equal(*found)


def test_members_on_the_hub_are_joined_at_a_commit_and_loaded_at_it(
    folders: list[Path], pairs: Pairs, tmp_path: Path, hub: Hub
) -> None:
    hub.repositories["org/bert"] = ("b" * 40, folders[1])
    ensemble([folders[0], "org/bert"], tmp_path / "out", data=pairs, progress=False)
    entries = json.loads((tmp_path / "out" / "posterior_config.json").read_text())["members"]
    assert [(entry["path"], entry["revision"]) for entry in entries] == [
        (str(folders[0].resolve()), None),
        ("org/bert", "b" * 40),
    ]
    hub.downloads.clear()
    assert load_scorer(tmp_path / "out").kind == "ensemble"
    assert hub.downloads == [("org/bert", "b" * 40)]
    del hub.repositories["org/bert"]
    with pytest.raises(ModelError, match=r"member org/bert: cannot .* org/bert: 404"):
        load_scorer(tmp_path / "out")


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
