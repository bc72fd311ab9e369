"""Heads fitted to tiny models: what is saved, that plain Transformers gives the same mean, and what is refused."""

import json

import pytest
import torch

from prudent.errors import DataError, PosteriorError, UnsupportedError
from prudent.models import RewardModel
from prudent.posteriors import HeadsPosterior, encode_pairs, fit, joint_rewards, load_posterior, load_scorer
from prudent.posteriors._scored_texts import encode_scored

FRUITS = ["apple", "pear", "plum", "bird", "stone", "river"]


def pairs(count: int = 24, ask: str = "name") -> list[dict]:
    rows = []
    for index in range(count):
        first, second = FRUITS[index % 6], FRUITS[(index + 1 + index // 6) % 6]
        prompt = f"{ask} a {'green' if index % 2 else 'red'} fruit please {['one', 'two', 'three'][index % 3]}"
        chosen = f"the {min(first, second)} is {['small', 'large', 'cold'][index % 3]} {'and warm ' * (index % 4)}."
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": f"maybe the {max(first, second)} ?"})
    return rows


def pools(count: int = 8) -> list[dict]:
    responses = [f"the {fruit} is {size} ." for fruit in FRUITS for size in ("small", "large")]
    return [
        {
            "prompt": f"name a fruit please {['one', 'two', 'three', 'four'][row % 4]} {FRUITS[row % 6]}",
            "responses": responses[row : row + 4],
            "gold": [float((7 * place + row) % 11) for place in range(len(responses[row : row + 4]))],
        }
        for row in range(count)
    ]


@pytest.mark.parametrize(
    ("kind", "posterior"), [("llama", "heads"), ("bert", "classification"), ("gpt2", "mean_variance")]
)
def test_saved_heads_load_back_and_plain_transformers_gives_their_mean(kind, posterior, tiny_models, tmp_path):
    from transformers import AutoModelForSequenceClassification

    result = fit(
        tiny_models(kind), pairs(), tmp_path / "rm", posterior=posterior, num_members=3, max_length=64, progress=False
    )
    assert result.train_accuracy > 0.8
    assert not any("carries its own" in note for note in result.notes)
    model = RewardModel.from_pretrained(tmp_path / "rm")
    loaded = load_posterior(tmp_path / "rm", model)
    assert isinstance(loaded, HeadsPosterior)
    assert loaded.basis_id == result.posterior.basis_id
    encoded = model.encode(["name a fruit ?"] * 3, ["the apple .", "maybe the stone is large and cold", "yes"])
    predicted = loaded.predict(model, encoded, group=torch.zeros(3), reference_weight=torch.ones(3))
    assert predicted.members.shape == (3, 3)
    torch.testing.assert_close(predicted.variance, predicted.members.var(1))
    torch.testing.assert_close(predicted.mean, model.features(encoded)[1], rtol=1e-4, atol=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    with torch.no_grad():
        for row, ids in enumerate(encoded.input_ids):
            types = (
                {}
                if encoded.token_type_ids is None
                else {"token_type_ids": torch.tensor([encoded.token_type_ids[row]])}
            )
            logit = plain(input_ids=torch.tensor([ids]), **types).logits[0, 0]
            torch.testing.assert_close(predicted.mean[row], logit, rtol=1e-4, atol=1e-4)
    config = json.loads((tmp_path / "rm" / "posterior_config.json").read_text())
    assert (config["kind"], config["num_members"], config["ddof"]) == (posterior, 3, 1)
    assert f"Kind `{posterior}` (3 linear heads" in (tmp_path / "rm" / "README.md").read_text()


def test_contrasts_and_joint_rewards_are_those_of_the_members(tiny_models, tmp_path):
    fit(tiny_models("llama"), pairs(), tmp_path / "rm", posterior="mean_variance", num_members=4, progress=False)
    scorer = load_scorer(tmp_path / "rm")
    rewards = joint_rewards(tmp_path / "rm", ["name a fruit"] * 3, ["the apple .", "the stone .", "the apple ."])
    model = RewardModel.from_pretrained(tmp_path / "rm")
    posterior = load_posterior(tmp_path / "rm", model)
    encoded = model.encode(["name a fruit"] * 2, ["the apple .", "the stone ."])
    members = posterior.members_of(model.features(encoded)[0])
    mean, variance = rewards.contrast(torch.tensor([0, 0]), torch.tensor([1, 2]))
    torch.testing.assert_close(mean[0].float(), (members[0] - members[1]).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(variance[0].float(), (members[0] - members[1]).var(), rtol=1e-3, atol=1e-6)
    assert (mean[1], variance[1]) == (0, 0)
    from prudent.data import load_preferences

    found = posterior.contrasts(model, encode_pairs(model, load_preferences(pairs(6)).rows))
    assert bool((found.noise > 0).all())
    assert scorer.num_members == 4


def test_mlp_and_mean_pooling_carry_their_own_heads(tiny_models, tmp_path):
    before = RewardModel.from_pretrained(tiny_models("llama")).rewards(["name"], ["the apple"])
    result = fit(
        tiny_models("llama"),
        pairs(),
        tmp_path / "rm",
        eval_data=pairs(12, ask="tell me about"),
        posterior="heads",
        architecture="mlp",
        diversity="prior_function",
        num_members=2,
        progress=False,
    )
    assert any("own mlp heads" in note for note in result.notes)
    assert result.held_out.prior_precision_scale is None
    model = RewardModel.from_pretrained(tmp_path / "rm")
    torch.testing.assert_close(model.rewards(["name"], ["the apple"]), before)
    assert load_posterior(tmp_path / "rm", model).basis_id == result.posterior.basis_id
    pooled = fit(tiny_models("llama"), pairs(), posterior="heads", pooling="mean", num_members=2, progress=False)
    assert any("mean pooling" in note for note in pooled.notes)


def test_held_out_pairs_choose_the_prior_of_heads(tiny_models):
    held_out = pairs(12, ask="tell me about")
    common = {"eval_data": held_out, "posterior": "heads", "num_members": 2, "progress": False}
    plain = fit(tiny_models("llama"), pairs(), **common)
    chosen = fit(tiny_models("llama"), pairs(), prior_precision="held_out", **common)
    assert chosen.held_out.nll <= plain.held_out.nll + 1e-9
    scale = chosen.posterior.prior_precision / plain.posterior.prior_precision
    assert scale == pytest.approx(chosen.held_out.prior_precision_scale)


def test_quantile_heads_take_pools_and_pairs_give_their_scale(tiny_models, tmp_path):
    options = {"posterior": "quantile", "num_members": 2, "prior_precision": 1.0, "progress": False}
    alone = fit(tiny_models("llama"), pools(), **options)
    assert (alone.num_responses, alone.num_pairs) == (32, 48)
    assert any("units of the scores" in note for note in alone.notes)
    # Labels that the heads get right two times out of three, so that there is a scale.
    rows = pairs(24, ask="tell me about")
    model = RewardModel.from_pretrained(tiny_models("llama"))
    contrast = alone.posterior.contrasts(model, _encoded(model, rows)).mean
    for place, row in enumerate(rows):
        if (contrast[place] > 0) == (place % 3 == 0):
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    scaled = fit(tiny_models("llama"), pools(), tmp_path / "rm", eval_data=rows, **options)
    # So few logits apart, noise moderates next to nothing.
    assert scaled.held_out.logit_temperature == pytest.approx(1.0, rel=0.02)
    assert scaled.held_out.accuracy == pytest.approx(2 / 3, abs=0.05)
    assert any("chose the scale" in note for note in scaled.notes)
    loaded = load_posterior(tmp_path / "rm", RewardModel.from_pretrained(tmp_path / "rm"))
    features = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        loaded.members_of(features), loaded.logit_scale * alone.posterior.members_of(features), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(loaded.quantiles_of(features), alone.posterior.quantiles_of(features))


def test_pairs_that_give_no_scale_do_not_cost_the_fit(tiny_models, tmp_path):
    options = {"posterior": "quantile", "num_members": 2, "prior_precision": 1.0, "progress": False}
    alone = fit(tiny_models("llama"), pools(), **options).posterior
    rows = pairs(24, ask="tell me about")
    model = RewardModel.from_pretrained(tiny_models("llama"))
    for row, contrast in zip(rows, alone.contrasts(model, _encoded(model, rows)).mean, strict=True):
        if contrast > 0:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    result = fit(tiny_models("llama"), pools(), tmp_path / "rm", eval_data=rows, **options)
    assert (result.posterior.logit_scale, result.held_out.accuracy) == (1.0, 0.0)
    assert any("give no scale from scores to logits" in note for note in result.notes)


def test_of_a_large_pool_few_pairs_are_drawn(tiny_models):
    from prudent.data import load_pools

    responses = [f"the {first} and the {second} {third}" for first in FRUITS for second in FRUITS for third in FRUITS]
    wide = [{"prompt": "name a fruit", "responses": responses, "gold": [float(i % 50) for i in range(len(responses))]}]
    texts = encode_scored(RewardModel.from_pretrained(tiny_models("llama")), load_pools([*wide, *pools(2)]).rows)
    better, worse = texts.ordered_pairs(0)
    assert bool((texts.scores[better] > texts.scores[worse]).all())
    assert torch.equal(texts.group[better], texts.group[worse])
    assert torch.bincount(texts.group[better]).tolist() == [64, 6, 6]
    assert len(torch.unique(torch.stack([better, worse], 1), dim=0)) == len(better)


@pytest.mark.parametrize("posterior", ["last_layer", "heads", "quantile"])
def test_features_that_are_not_finite_are_named_by_the_row_of_the_file(posterior, tiny_models, monkeypatch):
    """Faulty rows before them, left out, do not shift their number."""
    whole = RewardModel.features

    def faulty(self, encoded, **options):
        features, rewards = whole(self, encoded, **options)
        features[encoded.lengths == encoded.lengths.max()] = torch.nan
        return features, rewards

    monkeypatch.setattr(RewardModel, "features", faulty)
    long = "the apple is small " * 12
    if posterior == "quantile":
        data = [{"prompt": "", "responses": []}, *pools(4)]
        data[3]["responses"][1] = long
        named = "row 3, response 1 first"
    else:
        data = [{"prompt": "name", "chosen": "", "rejected": ""}, *pairs()]
        data[5]["rejected"] = long
        named = r"of 1 pairs is not finite \(row 5 first"
    with pytest.raises(PosteriorError, match=named):
        fit(tiny_models("llama"), data, posterior=posterior, skip_bad=True, progress=False)


def _encoded(model: RewardModel, rows: list[dict]):
    from prudent.data import load_preferences

    return encode_pairs(model, load_preferences(rows).rows)


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        (pairs(), {"posterior": "heads", "num_members": 1}, PosteriorError, "num_members is 1"),
        (pairs(), {"posterior": "kron", "num_members": 4}, UnsupportedError, "'kron' has no option num_members"),
        (pairs(), {"posterior": "heads", "head": "kept"}, UnsupportedError, "no option head 'kept'"),
        (pairs(), {"posterior": "heads", "posterior_temperature": 2.0}, UnsupportedError, "posterior_temperature"),
        (pairs(), {"posterior": "heads", "architecture": "tree"}, ValueError, "architecture is 'tree'"),
        (
            pairs(),
            {"posterior": "heads", "architecture": "mlp", "prior_precision": "held_out", "eval_data": pairs()},
            UnsupportedError,
            "do not choose the prior precision of mlp",
        ),
        (pairs(), {"posterior": "quantile"}, DataError, "give pools with `gold`"),
        ([{"prompt": "a", "responses": ["b", "c"]}], {"posterior": "quantile"}, DataError, "no column gold"),
        (
            [*pools(2), {"prompt": "a", "responses": ["b", "c"], "gold": [1.0, None]}],
            {"posterior": "quantile"},
            DataError,
            "response 1 of row 2 first",
        ),
        (
            [{"prompt": ask, "responses": ["the pear"], "gold": [float(place)]} for place, ask in enumerate("abcd")],
            {"posterior": "quantile"},
            PosteriorError,
            "no prompt has two responses with different scores",
        ),
        (
            [{**pairs(1)[0], "margin": 1.0}, pairs(2)[1]],
            {"posterior": "classification"},
            UnsupportedError,
            "pair in row 0",
        ),
    ],
)
def test_what_cannot_be_fitted_says_so(data, options, error, words, tiny_models):
    with pytest.raises(error, match=words):
        fit(tiny_models("llama"), data, progress=False, **options)


def test_a_changed_head_or_model_is_refused(tiny_models, tmp_path):
    fit(tiny_models("llama"), pairs(), tmp_path / "rm", posterior="heads", num_members=2, progress=False)
    model = RewardModel.from_pretrained(tmp_path / "rm")
    posterior = load_posterior(tmp_path / "rm", model)
    weight, bias = model.head_values()
    model.set_head(2 * weight, bias or 0.0)
    with pytest.raises(PosteriorError, match="reward head changed"):
        posterior.check_model(model)
