"""Denoising of preference labels: the flip rate, who judges whom, what is done, and the file that is written."""

import json
import math
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prudent.data import World, load_preferences
from prudent.errors import DataError, ModelError, PosteriorError, PrudentError, UnsupportedError
from prudent.metrics import auroc
from prudent.models import RewardModel
from prudent.posteriors import (
    EnsembleScorer,
    FlipModel,
    ModelScorer,
    PlainRewards,
    ScoredMember,
    clean,
    cross_fitted_strength,
    fit,
    fit_flips,
    fit_logistic,
    folds_by_prompt,
    load_scorer,
    suspects,
    treat,
)
from prudent.posteriors import _clean_strength as strength_module
from prudent.posteriors._clean_output import swapped, write_preferences
from prudent.posteriors._clean_strength import prompt_ids, strength_of_scorer
from prudent.posteriors._clean_treatments import check_groups


def simulated(num: int, flip: float, seed: int, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """Strengths of Bradley-Terry pairs as labelled, some turned round; the flips."""
    generator = torch.Generator().manual_seed(seed)
    logit = spread * torch.randn(num, generator=generator, dtype=torch.float64)
    better = torch.rand(num, generator=generator) < torch.sigmoid(logit)
    flipped = torch.rand(num, generator=generator) < flip
    return torch.where(better ^ flipped, logit, -logit), flipped


def plugged_in(rate: float, scale: float) -> FlipModel:
    """A flip rate and scale that are known."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return FlipModel(rate, 0.0, 1.0, scale, 0.0, scale * one[0], rate * one[0], one)


class TestFlips:
    @pytest.mark.parametrize("flip", [0.0, 0.1, 0.25, 0.8])
    def test_rate_and_scale_are_recovered_whatever_the_unit_of_strength(self, flip: float) -> None:
        rates, scales = [], []
        for seed in range(3):
            strength, _ = simulated(3000, flip, seed)
            found = fit_flips(0.2 * strength)
            assert found.flip_rate_low - 0.02 <= flip <= found.flip_rate_high + 0.02
            rates.append(found.flip_rate)
            scales.append(found.scale)
        assert sum(rates) / 3 == pytest.approx(flip, abs=0.04)
        assert sum(scales) / 3 == pytest.approx(5.0, rel=0.3)

    def test_strengths_without_a_relation_to_labels_gain_no_likelihood(self) -> None:
        strength = torch.randn(500, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        found = fit_flips(strength)
        assert 0 <= found.log_likelihood_ratio < 6
        assert found.flip_rate_high - found.flip_rate_low > 0.5

    def test_likelihood_is_the_best_of_a_grid(self) -> None:
        strength, _ = simulated(200, 0.2, 5)
        std = 0.5 + strength.abs() / 4
        label = torch.where(torch.arange(200) % 4 == 0, 0.7, 1.0).double()
        found = fit_flips(strength, std, label)
        # E sigma by brute force over the normal.
        nodes = torch.linspace(-9, 9, 3001, dtype=torch.float64)
        weights = torch.exp(-0.5 * nodes**2) / math.sqrt(2 * math.pi) * (nodes[1] - nodes[0])

        def log_likelihood(rate: float, scale: float) -> float:
            logits = scale * (strength.unsqueeze(1) + std.unsqueeze(1) * nodes)
            q = torch.sigmoid(logits) @ weights
            right, wrong = q**label * (1 - q) ** (1 - label), q ** (1 - label) * (1 - q) ** label
            return float(((1 - rate) * right + rate * wrong).log().sum())

        best = log_likelihood(found.flip_rate, found.scale)
        assert best - 200 * math.log(0.5) == pytest.approx(found.log_likelihood_ratio, abs=1e-6)
        for rate, scale in product([0.05, 0.15, 0.2, 0.25, 0.35], [0.3, 0.7, 1.0, 1.4, 3.0]):
            assert log_likelihood(rate, scale) <= best + 1e-9

    @given(
        rate=st.floats(0.01, 0.99), scale=st.floats(0.1, 5), mean=st.floats(-6, 6), label=st.sampled_from([0.0, 1.0])
    )
    def test_probability_of_a_flip_is_bayes_rule_by_enumeration(
        self, rate: float, scale: float, mean: float, label: float
    ) -> None:
        prefers_chosen = 1 / (1 + math.exp(-scale * mean))
        joint: dict[bool, float] = {False: 0.0, True: 0.0}
        for chosen_is_better, flipped in product([False, True], repeat=2):
            said = 1.0 if chosen_is_better != flipped else 0.0
            if said == label:
                truth = prefers_chosen if chosen_is_better else 1 - prefers_chosen
                joint[flipped] += truth * (rate if flipped else 1 - rate)
        model = plugged_in(rate, scale)
        found = model.prob_flipped(torch.tensor([mean]), None, torch.tensor([label]))
        assert float(found) == pytest.approx(joint[True] / sum(joint.values()), abs=1e-6)

    def test_a_label_of_one_half_has_no_direction_and_spread_makes_unsure(self) -> None:
        model = plugged_in(0.2, 1.0)
        mean = torch.tensor([-3.0, 3.0])
        assert model.prob_flipped(mean, None, torch.tensor([0.5, 0.5])).tolist() == pytest.approx([0.2, 0.2])
        sure, unsure = model.prob_flipped(mean), model.prob_flipped(mean, torch.tensor([4.0, 4.0]))
        assert sure[1] < unsure[1] < 0.2 < unsure[0] < sure[0]

    def test_the_probability_is_averaged_over_what_the_labels_leave_open(self) -> None:
        strength, _ = simulated(150, 0.25, 2)
        found = fit_flips(strength)
        ask = torch.tensor([-4.0, -1.0, 0.5])
        expected = torch.zeros(3, dtype=torch.float64)
        total = 0.0
        # A finer and wider grid than the one that is used.
        for scale, rate in product(torch.logspace(-2.5, 2, 120).tolist(), torch.linspace(0.0025, 0.9975, 200).tolist()):
            q = torch.sigmoid(scale * strength)
            weight = float(((1 - rate) * q + rate * (1 - q)).log().sum().add(95).exp())
            own = torch.sigmoid(scale * ask.double())
            expected += weight * rate * (1 - own) / (rate * (1 - own) + (1 - rate) * own)
            total += weight
        torch.testing.assert_close(found.prob_flipped(ask), expected / total, rtol=0.03, atol=0.01)

    @pytest.mark.parametrize(
        ("mean", "std", "label", "message"),
        [
            ([1.0], None, None, "at least two"),
            ([1.0, math.nan], None, None, "mean of pair 1 is not finite"),
            ([0.0, 0.0], None, None, "all strengths are 0"),
            ([1.0, 2.0], [1.0, -1.0], None, "negative"),
            ([1.0, 2.0], [1.0], None, "std is"),
            ([1.0, 2.0], None, [1.0, 1.5], "outside"),
        ],
    )
    def test_faulty_strengths_are_refused(
        self, mean: list[float], std: list[float] | None, label: list[float] | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            fit_flips(
                torch.tensor(mean),
                None if std is None else torch.tensor(std),
                None if label is None else torch.tensor(label),
            )


class TestCrossFitting:
    def test_folds_keep_prompts_together_and_are_balanced(self) -> None:
        generator = torch.Generator().manual_seed(0)
        prompt = torch.randint(0, 40, (300,), generator=generator)
        fold = folds_by_prompt(prompt, 5, seed=1)
        for number in prompt.unique():
            assert len(fold[prompt == number].unique()) == 1
        sizes = torch.bincount(fold, minlength=5)
        assert int(sizes.max() - sizes.min()) <= int(torch.bincount(prompt).max())
        assert not torch.equal(fold, folds_by_prompt(prompt, 5, seed=2))

    def test_no_pair_is_judged_by_heads_that_saw_it_or_its_prompt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The features carry the number of the prompt, so what is trained on and what is judged can be told."""
        seen: list[set[float]] = []

        class Heads:
            def __init__(self, prompts: set[float]) -> None:
                self.prompts = prompts

            def members_of(self, features: Tensor) -> Tensor:
                assert self.prompts.isdisjoint(features[:, 0].tolist())
                return torch.zeros(len(features), 3)

        def fit_heads(chosen: Tensor, rejected: Tensor, **options: Any) -> Heads:
            assert options["group"].tolist() == chosen[:, 0].tolist() == rejected[:, 0].tolist()
            assert options["label"].tolist() == (0.5 + chosen[:, 0] / 100).tolist()
            seen.append(set(chosen[:, 0].tolist()))
            return Heads(seen[-1])

        monkeypatch.setattr(strength_module, "fit_heads", fit_heads)
        prompt = torch.arange(50) % 12
        features = torch.cat([prompt, prompt]).float().unsqueeze(1)
        first = torch.arange(50)
        label = 0.5 + prompt.float() / 100
        cross_fitted_strength(features, first, first + 50, prompt, label=label, num_folds=4)
        assert len(seen) == 4
        assert set.union(*seen) == set(map(float, range(12)))

    def test_a_planted_flip_is_memorised_in_sample_and_found_across_folds(self) -> None:
        """As many features as pairs, of which many tell the truth: a head that saw a label repeats it all the same."""
        generator = torch.Generator().manual_seed(0)
        count, flipped = 80, torch.arange(80) % 5 == 0
        signal = torch.randn(2 * count, 1, generator=generator)
        noise = torch.randn(2 * count, 80, generator=generator)
        features = torch.cat([signal + 0.3 * noise[:, :40], noise[:, 40:]], 1)
        first, second = torch.arange(count), torch.arange(count) + count
        swap = (signal[:count, 0] < signal[count:, 0]) ^ flipped
        chosen, rejected = torch.where(swap, second, first), torch.where(swap, first, second)
        found = cross_fitted_strength(features, chosen, rejected, first, num_members=3)
        difference = (features[chosen] - features[rejected]).double()
        inside = difference @ fit_logistic(difference, 1e-2).weight
        assert auroc(-found.mean[flipped], -found.mean[~flipped]) > 0.85
        assert float((inside[flipped] > 0).double().mean()) > 0.9  # learned by heart
        assert found.std is not None
        assert bool((found.std > 0).all())

    def test_fewer_prompts_than_folds_and_no_prompts_are_told(self) -> None:
        with pytest.raises(DataError, match="2 distinct prompts, fewer than the 5 folds"):
            folds_by_prompt(torch.tensor([0, 0, 1]), 5)
        with pytest.raises(DataError, match=r"1 pairs have no prompt \(row 7 first\)"):
            prompt_ids([[{"role": "user", "content": "a"}], []], [4, 7])


class TestTreatments:
    MEAN = torch.tensor([-2.0, -0.5, 1.0, 3.0])
    FLIPPED = torch.tensor([0.9, 0.4, 0.2, 0.0])
    LABEL = torch.tensor([1.0, 1.0, 0.75, 0.5])
    MARGIN = torch.tensor([0.0, 0.0, 0.0, 2.0])

    def treated(self, treatment: Any) -> Any:
        suspect = suspects(self.MEAN, self.FLIPPED)
        return treat(treatment, suspect, self.MEAN, self.FLIPPED, self.LABEL, self.MARGIN)

    def test_each_does_what_its_name_says(self) -> None:
        assert self.treated("flip").change == ("flipped", "kept", "kept", "kept")
        assert self.treated("flip").flipped.tolist() == [True, False, False, False]
        assert self.treated("drop").kept.tolist() == [False, True, True, True]
        assert self.treated("soft").label.tolist() == pytest.approx([0.1, 0.6, 0.65, 0.5])
        margin = self.treated("margin")
        assert margin.margin.tolist() == [-2.0, -0.5, 1.0, 2.0]
        assert margin.change == ("margin", "margin", "margin", "kept")
        for treatment in ("flip", "drop", "mark"):
            assert self.treated(treatment).label.tolist() == self.LABEL.tolist()
            assert self.treated(treatment).margin.tolist() == self.MARGIN.tolist()
        assert set(self.treated("mark").change) == {"kept"}

    def test_flipping_above_one_half_leaves_fewest_wrong_labels(self) -> None:
        strength, flipped = simulated(4000, 0.25, 1)
        probability = plugged_in(0.25, 1.0).prob_flipped(strength)
        wrong = {
            threshold: float((suspects(strength, probability, threshold=threshold) ^ flipped).double().mean())
            for threshold in (0.1, 0.3, 0.5, 0.7, 0.9)
        }
        assert wrong[0.5] == min(wrong.values()) < 0.7 * float(flipped.double().mean())

    def test_bottom_share_takes_the_weakest_whatever_the_probabilities(self) -> None:
        assert suspects(self.MEAN, self.FLIPPED, bottom_share=0.5).tolist() == [True, True, False, False]
        assert not suspects(self.MEAN, self.FLIPPED, bottom_share=0.0).any()

    def test_options_out_of_range_are_refused(self) -> None:
        with pytest.raises(ValueError, match="threshold"):
            suspects(self.MEAN, self.FLIPPED, threshold=1.5)
        with pytest.raises(ValueError, match="bottom_share"):
            suspects(self.MEAN, self.FLIPPED, bottom_share=-0.1)
        with pytest.raises(ValueError, match="one of flip, drop, soft, margin, mark"):
            self.treated("smooth")

    def test_a_whole_group_is_no_noise(self) -> None:
        touched = torch.arange(60) < 20
        groups = ["web"] * 22 + ["lab"] * 37 + [None]
        with pytest.raises(DataError, match="20 of the 22 labels of source 'web' would be changed"):
            check_groups(touched, {"source": groups})
        check_groups(touched, {"prompt": groups})
        with pytest.raises(DataError, match="10 of the 10 labels of prompt"):
            check_groups(touched, {"prompt": ["a" * 80] * 10 + ["b"] * 50})
        check_groups(touched, {"prompt": [str(place // 2) for place in range(60)]})
        with pytest.raises(DataError, match="more than half"):
            check_groups(~touched, {})


def rows_of(count: int, *, flip: float = 0.2) -> list[dict[str, Any]]:
    """Sunny is better than cold; some labels are turned round."""
    draw = random.Random(1)
    words = ["apple", "pear", "plum", "river", "stone", "bird", "house"]
    rows = []
    for _ in range(count):
        sides = [" ".join([*draw.choices(words, k=draw.randint(2, 6)), end]) for end in ("sunny", "cold")]
        if draw.random() < flip:
            sides.reverse()
        rows.append({"prompt": f"name {' '.join(draw.choices(words, k=3))}", "chosen": sides[0], "rejected": sides[1]})
    return rows


@pytest.fixture(scope="module")
def base(tiny_models: Callable[..., Path]) -> RewardModel:
    return RewardModel.from_pretrained(tiny_models("llama", head=False))


class TestClean:
    def run(self, base: RewardModel, rows: Any, output: Path, **options: Any) -> Any:
        return clean(rows, output, model=base, num_members=3, progress=False, **{"treatment": "flip", **options})

    @pytest.mark.parametrize("treatment", ["flip", "drop", "soft", "margin", "mark"])
    def test_the_file_holds_what_was_done_and_how_to_undo_it(
        self, base: RewardModel, tmp_path: Path, treatment: Any
    ) -> None:
        rows = [{**row, "rater": number, "margin": 0.0} for number, row in enumerate(rows_of(100))]
        rows[3]["margin"] = 1.5
        output = tmp_path / "cleaned.jsonl"
        summary = self.run(base, rows, output, treatment=treatment)
        written = [json.loads(line) for line in output.read_text().splitlines()]
        loaded = load_preferences(output).rows
        assert sum(summary.changes.values()) == summary.num_pairs == 100
        assert len(written) == len(loaded) == 100 - summary.changes.get("dropped", 0)
        for row, read in zip(written, loaded, strict=True):
            before = rows[row["rater"]]
            undone = swapped(row) if row["changed"] == "flipped" else dict(row)
            if treatment == "soft":
                assert read["p_chosen"] == pytest.approx(1 - row["prob_flipped"])
                assert undone.pop("original_p_chosen") is None
                del undone["p_chosen"]
            if treatment == "margin":
                assert read["margin"] == pytest.approx(1.5 if row["rater"] == 3 else row["strength_mean"])
                undone["margin"] = undone.pop("original_margin")
            for name in ("strength_mean", "strength_std", "prob_flipped", "changed"):
                del undone[name]
            assert undone == before
        if treatment in ("flip", "drop"):
            assert summary.num_suspect == summary.changes["flipped" if treatment == "flip" else "dropped"] > 5
        if treatment == "mark":
            assert summary.num_suspect > 5
            assert summary.changes == {"kept": 100}

    def test_cleaned_files_read_the_same_twice_and_are_not_cleaned_again(
        self, base: RewardModel, tmp_path: Path
    ) -> None:
        first, second = tmp_path / "first.jsonl", tmp_path / "second.parquet"
        self.run(base, rows_of(100), first)
        self.run(base, rows_of(100), second)
        for name in ("prompt", "chosen", "rejected"):
            assert load_preferences(first).rows[name] == load_preferences(second).rows[name]
        with pytest.raises(DataError, match=r"row \d+ was flipped by an earlier cleaning"):
            self.run(base, first, tmp_path / "third.jsonl")
        self.run(base, rows_of(100), first, treatment="mark", overwrite=True)
        self.run(base, first, tmp_path / "fourth.jsonl")

    def test_bad_rows_left_out_are_not_in_the_output(self, base: RewardModel, tmp_path: Path) -> None:
        rows = rows_of(80)
        rows[10]["chosen"] = rows[10]["rejected"]
        with pytest.raises(DataError, match="identical"):
            self.run(base, rows, tmp_path / "out.jsonl")
        summary = self.run(base, rows, tmp_path / "out.jsonl", skip_bad=True, treatment="mark")
        written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert (summary.num_pairs, summary.num_skipped, len(written)) == (79, 1, 79)
        assert [row["prompt"] for row in written] == [row["prompt"] for at, row in enumerate(rows) if at != 10]

    def test_a_source_the_wrong_way_round_is_named(self, base: RewardModel, tmp_path: Path) -> None:
        rows = [{**row, "source": "web" if at % 4 == 0 else "lab"} for at, row in enumerate(rows_of(160, flip=0.0))]
        rows = [swapped(row) if row["source"] == "web" else row for row in rows]
        with pytest.raises(DataError, match="labels of source 'web' would be changed"):
            self.run(base, rows, tmp_path / "out.jsonl")
        summary = self.run(base, rows, tmp_path / "out.jsonl", treatment="mark")
        assert summary.groups["source"]["web"]["agreement"] < 0.3 < 0.7 < summary.groups["source"]["lab"]["agreement"]

    def test_labels_at_random_cannot_be_cleaned(self, base: RewardModel, tmp_path: Path) -> None:
        rows = rows_of(100, flip=0.5)
        with pytest.raises(PosteriorError, match="tell nothing of the labels"):
            self.run(base, rows, tmp_path / "out.jsonl")
        summary = self.run(base, rows, tmp_path / "out.jsonl", treatment="mark")
        assert any("tell nothing" in note for note in summary.notes)

    def test_outputs_that_cannot_be_are_refused_before_a_model_is_loaded(self, tmp_path: Path) -> None:
        source = tmp_path / "pairs.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows_of(4)))
        for output, options, message in (
            ("a.csv", {}, "written as .jsonl or .parquet"),
            ("pairs.jsonl", {"overwrite": True}, "would be lost"),
        ):
            with pytest.raises(PrudentError, match=message):
                clean(source, tmp_path / output, model="no/such-model", **options)
        (tmp_path / "there.jsonl").touch()
        with pytest.raises(PrudentError, match="there already"):
            clean(source, tmp_path / "there.jsonl", model="no/such-model")
        with pytest.raises(PrudentError, match="cannot be written as Parquet"):
            write_preferences([{"odd": 1}, {"odd": "text"}], tmp_path / "odd.parquet")
        assert not (tmp_path / "odd.parquet").exists()


class TestAsItIs:
    def test_a_model_with_a_posterior_judges_and_says_what_to_doubt(
        self, base: RewardModel, tiny_models: Callable[..., Path], tmp_path: Path
    ) -> None:
        folder = tmp_path / "rm"
        fitted = fit(tiny_models("llama", head=False), rows_of(60, flip=0.0), folder, pooling="mean", progress=False)
        rows = [{**row, "prompt": f"please {row['prompt']}"} for row in rows_of(90)]
        summary = clean(rows, tmp_path / "out.jsonl", model=folder, progress=False)
        assert (summary.cross_fitted, summary.num_members) == (False, 0)
        assert "learned from these pairs" in summary.notes[0]
        scorer = load_scorer(folder)
        pairs = scorer.encode_pairs(load_preferences(rows).rows)
        expected = scorer.contrasts(pairs)
        written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        torch.testing.assert_close(torch.tensor([row["strength_mean"] for row in written]).double(), expected.mean)
        stds = torch.tensor([row["strength_std"] for row in written]).double()
        torch.testing.assert_close(stds, expected.variance.sqrt())
        assert fitted.posterior.kind == "last_layer"
        again = clean(rows, tmp_path / "two.jsonl", model=folder, cross_fit=True, progress=False, num_members=3)
        assert again.cross_fitted

    def test_without_a_variance_the_spread_is_null(self, tiny_models: Callable[..., Path], tmp_path: Path) -> None:
        options: dict[str, Any] = {"cross_fit": False, "treatment": "mark", "progress": False}
        clean(rows_of(30), tmp_path / "out.jsonl", model=tiny_models("llama"), **options)
        written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert all(row["strength_std"] is None for row in written)
        with pytest.raises(ModelError, match="never trained"):
            clean(rows_of(30), tmp_path / "two.jsonl", model=tiny_models("llama", head=False), **options)

    def test_members_of_an_ensemble_give_the_population_spread(
        self, tiny_models: Callable[..., Path], tmp_path: Path
    ) -> None:
        loaded = [RewardModel.from_pretrained(tiny_models(kind)) for kind in ("llama", "gpt2", "bert")]
        scorers = [ModelScorer(model, PlainRewards()) for model in loaded]
        ensemble = EnsembleScorer([ScoredMember(str(at), one, scale=0.5) for at, one in enumerate(scorers)])
        rows = load_preferences(rows_of(12)).rows
        found = strength_of_scorer(ensemble, ensemble.encode_pairs(rows))
        parts = [0.5 * one.contrasts(one.encode_pairs(rows)).mean for one in scorers]
        stacked = torch.stack(parts)
        torch.testing.assert_close(found.mean, stacked.mean(0), rtol=1e-4, atol=1e-5)
        assert found.std is not None
        torch.testing.assert_close(found.std, stacked.std(0, correction=0), rtol=1e-4, atol=1e-5)
        with pytest.raises(UnsupportedError, match="judges as it is"):
            clean(rows, tmp_path / "out.jsonl", model=ensemble, cross_fit=True)


def test_strengths_on_facts_of_the_world_find_its_flips() -> None:
    """The true reward's own terms as features: what detection is when nothing but noise stands in the way."""
    world = World(0)
    rows = world.preferences(400, flip=0.0)
    gold = torch.tensor(rows["gold_chosen"]) - torch.tensor(rows["gold_rejected"])
    rows, gold = rows.select(torch.nonzero(gold).flatten().tolist()), gold[gold != 0]
    flipped = torch.rand(len(gold), generator=torch.Generator().manual_seed(0)) < 0.25
    prompts = world.prompts(400, "train")
    by_text = {prompt.text: prompt for prompt in prompts}
    features = []
    for side in ("chosen", "rejected"):
        facts = [world.facts(by_text[row["prompt"][0]["content"]], row[side][0]["content"]) for row in rows]
        features.append(
            torch.tensor([[f.covered, f.off_topic, min(f.details, 3), f.details, f.repeated] for f in facts])
        )
    texts = torch.cat(features).float()
    first, second = torch.arange(len(gold)), torch.arange(len(gold)) + len(gold)
    swap = (gold < 0) ^ flipped
    found = cross_fitted_strength(
        texts, torch.where(swap, second, first), torch.where(swap, first, second), first, num_members=3
    )
    assert auroc(-found.mean[flipped], -found.mean[~flipped]) > 0.9
    assert fit_flips(found.mean, found.std).flip_rate == pytest.approx(0.25, abs=0.08)


def test_a_flipped_row_with_both_probabilities_says_the_opposite() -> None:
    row = {"chosen": "A", "rejected": "B", "p_chosen": 0.9, "p_rejected": 0.1, "score_chosen": 2, "score_rejected": 1}
    assert swapped(row) == {
        **{"chosen": "B", "rejected": "A", "p_chosen": 0.9, "p_rejected": 0.1},
        **{"score_chosen": 1, "score_rejected": 2},
    }
