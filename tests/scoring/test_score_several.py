"""Several named models in one dataset, and references that are a canned response."""

import json
import math

import pytest
import torch

from prudent.errors import DataError, ModelError, PosteriorError, PrudentError
from prudent.models import RewardModel
from prudent.posteriors import (
    EnsembleMember,
    EnsembleScorer,
    ModelScorer,
    PlainRewards,
    fit,
    load_members,
    load_posterior,
    load_scorer,
    load_scorers,
    save_ensemble,
)
from prudent.rewards import MemberRewards
from prudent.scoring import ScoredPool, read_scored, score
from prudent.scoring import _score as score_module
from prudent.utility import parse_utility

CANNED = "no stone please"
PAIRS = [
    {"prompt": f"name a fruit {word}", "chosen": f"apple {word} yes", "rejected": f"{word} stone house"}
    for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")
]
POOLS = [
    {"id": "a", "prompt": "name a fruit", "responses": ["apple", "stone", "pear plum", "apple"], "gold": [1, 0, 1, 1]},
    {"id": "b", "prompt": "another one", "responses": ["river door", CANNED, "bird"], "gold": [0, 1, 0]},
    {"id": "c", "prompt": "the house", "responses": ["a cold window opens slowly", "yes"], "gold": [0, 1]},
]
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])


def adapter(base, folder, seed):
    """A LoRA adapter with drawn weights on a base model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    classifier = AutoModelForSequenceClassification.from_pretrained(base)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS")
    adapted = get_peft_model(classifier, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_models, tmp_path_factory):
    """Three adapters of one base, each with a posterior of another kind, and a model of another family."""
    place = tmp_path_factory.mktemp("models")
    found = {}
    for seed, (kind, options) in enumerate(
        {"ekfac": {"prior_precision": 30.0}, "last_layer": {}, "mean_variance": {"num_members": 3}}.items()
    ):
        bare = adapter(tiny_models("llama"), place / f"bare_{kind}", seed)
        fit(bare, PAIRS, place / kind, posterior=kind, progress=False, **options)
        found[kind] = place / kind
    return {**found, "bert": tiny_models("bert")}


@pytest.fixture(scope="module")
def ensemble_folder(folders, tmp_path_factory):
    place = tmp_path_factory.mktemp("ensemble")
    members = [EnsembleMember(kind, folders[kind], scale) for kind, scale in (("ekfac", 1.0), ("last_layer", 2.0))]
    save_ensemble(place, EnsembleScorer(load_members(members)), [member.path for member in members], fitted_on={})
    return place


def columns(pool: ScoredPool) -> dict[str, list]:
    return pool.table.to_pydict()


def test_each_reward_is_what_its_model_gives_alone(folders, tmp_path):
    named = {"helpful": folders["ekfac"], "harmless": folders["mean_variance"], "brief": folders["bert"]}
    summary = score(named, POOLS, tmp_path / "all", num_references=2, progress=False)
    pool = read_scored(tmp_path / "all")
    assert pool.reward_names == ("helpful", "harmless", "brief")
    for name, folder in named.items():
        alone = score(folder, POOLS, tmp_path / name, num_references=2, progress=False)
        # bit for bit, though two of them share a base here
        assert columns(pool.reward(name)) == columns(read_scored(tmp_path / name))
        assert pool.reward(name).basis_id == read_scored(tmp_path / name).basis_id
        counts = summary.rewards[name]
        assert (counts.posterior, counts.num_truncated) == (alone.posterior, alone.num_truncated)
    assert [one.posterior for one in summary.rewards.values()] == ["ekfac", "mean_variance", "none"]
    assert (summary.posterior, summary.num_prompts, summary.num_responses) == ("several", 3, 9)
    assert "harmless_reward_members" in pool.table.column_names
    assert "brief_num_tokens" in pool.table.column_names
    assert not {"reward_mean", "truncated", "helpful_reward_members"} & set(pool.table.column_names)
    assert score(named, POOLS, tmp_path / "all", num_references=2, progress=False) == summary
    # some program rewrites the file and loses what it says of itself
    bare = ScoredPool(pool.table.replace_schema_metadata(None))
    assert bare.reward_names == pool.reward_names
    assert columns(bare.reward("harmless")) == columns(pool.reward("harmless"))


def test_adapters_of_one_base_share_it_also_with_members_of_ensembles(folders, ensemble_folder):
    named = {"one": folders["mean_variance"], "both": ensemble_folder, "other": folders["bert"]}
    scorers = load_scorers(named)
    models = [scorers["one"].model, *(member.scorer.model for member in scorers["both"].members)]
    assert all(model.model is models[0].model for model in models)
    assert scorers["other"].model.model is not models[0].model
    for name, folder in named.items():
        alone = load_scorer(folder)
        assert scorers[name].identity() == alone.identity()
        texts = ["name a fruit"] * 3, ["apple", "stone", "pear plum"]
        with torch.no_grad():
            found, expected = (one.exact(one.encode(*texts))[0] for one in (scorers[name], alone))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["ekfac", "last_layer", "mean_variance", "ensemble", "plain"])
def test_a_canned_response_is_the_reference_of_every_prompt(kind, folders, ensemble_folder, centered_rewards, tmp_path):
    folder = {**folders, "ensemble": ensemble_folder, "plain": folders["bert"]}[kind]
    score(folder, POOLS, tmp_path / "plain", num_references=2, progress=False)
    score(folder, POOLS, tmp_path / "out", canned=CANNED, num_references=2, progress=False)
    pool, plain = read_scored(tmp_path / "out"), read_scored(tmp_path / "plain")
    assert (pool.canned, plain.canned) == (CANNED, None)
    # the pool's own reference set stays what it was, and so do the rewards
    assert pool.table["is_reference"] == plain.table["is_reference"]
    torch.testing.assert_close(pool.column("reward_mean"), plain.column("reward_mean"), rtol=1e-5, atol=1e-5)
    centered = pool.column("reward_mean") - pool.column("reward_reference")
    variance = pool.column("reward_centered_variance")
    same = torch.tensor([text == CANNED for text in pool.table["response"].to_pylist()])
    assert same.tolist().index(True) == 5
    assert centered[same] == 0
    assert (centered[~same] != 0).all()
    if kind == "plain":
        assert variance.isnan().all()
        assert (
            pool.reward_set().reference_rewards("reward").mean.tolist()
            == pool.column("reward_reference")[[0, 4, 7]].tolist()
        )
        return
    assert variance[same] == 0
    # the exact joint posterior of a prompt's responses and the canned one
    scorer = load_scorer(folder)
    for prompt, row in enumerate(POOLS):
        texts = [*row["responses"], CANNED]
        mean, factor = scorer.exact(scorer.encode([row["prompt"]] * len(texts), texts))
        rows = torch.nonzero(prompt == GROUP).flatten()
        torch.testing.assert_close(centered[rows].float(), mean[:-1] - mean[-1], rtol=1e-4, atol=1e-4)
        expected = (factor[:-1] - factor[-1]).square().sum(1)
        torch.testing.assert_close(variance[rows].float(), expected, rtol=1e-3, atol=1e-4)
    found = centered_rewards(pool)
    torch.testing.assert_close(found.mean, centered, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.variance, variance, rtol=1e-3, atol=1e-4)
    assert (found.mean[same], found.variance[same]) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    rewards = pool.reward_set()
    references = rewards.reference_rewards("reward")
    assert rewards.canned == {"reward": CANNED}
    assert references.group.tolist() == [0, 1, 2]
    torch.testing.assert_close(references.mean, pool.column("reward_reference")[[0, 4, 7]], rtol=1e-5, atol=1e-5)
    values = parse_utility(f"center(canned={CANNED!r}) | log_sigmoid")(rewards)
    torch.testing.assert_close(values[same], torch.full_like(values[same], -math.log(2)), rtol=1e-5, atol=1e-6)
    if isinstance(references, MemberRewards):
        absolute = rewards.against_references["reward"]
        contrast = absolute.members - references.members[absolute.group]
        torch.testing.assert_close(contrast, found.members)


def test_canned_texts_by_name_in_prompts_cut_over_shards_and_after_an_interruption(folders, tmp_path, monkeypatch):
    named = {"helpful": folders["last_layer"], "harmless": folders["mean_variance"]}
    options = {"canned": {"harmless": CANNED}, "num_references": 2, "progress": False}
    score(named, POOLS, tmp_path / "one", **options)
    monkeypatch.setattr(score_module, "_RESPONSES_PER_SHARD", 3)
    score(named, POOLS, tmp_path / "many", **options)
    one, many = read_scored(tmp_path / "one"), read_scored(tmp_path / "many")
    assert [one.reward(name).canned for name in one.reward_names] == [None, CANNED]
    assert len(list((tmp_path / "many").glob("part-*"))) == 4
    for name in ("reward_mean", "reward_variance", "reward_noise", "reward_reference", "reward_centered_variance"):
        for reward in named:
            pair = (pool.reward(reward).column(name) for pool in (one, many))
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)
    calls = []
    original = score_module.ShardScorer.columns

    def interrupted(self, *arguments):
        calls.append(self)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(score_module.ShardScorer, "columns", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(named, POOLS, tmp_path / "cut", **options)
    # a part has all rewards or is not there
    assert len(list((tmp_path / "cut.partial").glob("part-*"))) == 1
    for changed, what in (
        ({"canned": None}, "another canned"),
        ({"canned": {"helpful": CANNED}}, "another canned"),
        ({"seed": 3}, "another seed"),
    ):
        with pytest.raises(PrudentError, match=what):
            score(named, POOLS, tmp_path / "cut", **{**options, **changed})
    with pytest.raises(PrudentError, match="another model"):
        score({**named, "harmless": folders["bert"]}, POOLS, tmp_path / "cut", **options)
    with pytest.raises(PrudentError, match=r"another canned, .*model"):
        score(folders["bert"], POOLS, tmp_path / "cut", canned=CANNED, num_references=2, progress=False)
    summary = score(named, POOLS, tmp_path / "cut", **options)
    assert columns(read_scored(tmp_path / "cut")) == columns(many)
    assert summary.rewards == score(named, POOLS, tmp_path / "many", **options).rewards


def test_variance_of_the_contrast_in_the_frame_of_the_rewards(folders, ensemble_folder, centered_rewards, tmp_path):
    score({"a": folders["ekfac"], "b": ensemble_folder}, POOLS, tmp_path / "out", num_references=2, progress=False)
    pool = read_scored(tmp_path / "out")
    for name in ("a", "b"):
        one = pool.reward(name)
        marginal, contrast = one.posterior(), one.posterior(contrast_variance=True)
        centered = centered_rewards(one)
        torch.testing.assert_close(contrast.mean.float(), marginal.mean)
        if name == "a":
            torch.testing.assert_close(contrast.variance, one.column("reward_centered_variance"))
            continue
        torch.testing.assert_close(contrast.members.float(), marginal.members)
        torch.testing.assert_close(contrast.within_variance, centered.within_variance)
        assert (contrast.within_variance != marginal.within_variance).any()
    rewards = pool.reward_set()
    assert rewards.names == ("a", "b")
    assert rewards.is_reference.tolist() == pool.table["is_reference"].to_pylist()
    torch.testing.assert_close(rewards.rewards["b"].members, pool.reward("b").posterior().members)
    torch.testing.assert_close(
        rewards.against_references["a"].variance, pool.reward("a").column("reward_centered_variance")
    )
    # without a row of a reference set nobody can tell what its average is
    gone = pool.table["is_reference"].to_pylist().index(True)
    rest = ScoredPool(pool.table.take([row for row in range(9) if row != gone])).reward_set()
    assert rest.is_reference is None
    assert rest.against_references == {}
    assert len(rest) == 8


def test_named_rewards_where_one_is_needed(folders, tmp_path):
    score({"a": folders["bert"], "b": folders["bert"]}, POOLS, tmp_path / "out", progress=False)
    pool = read_scored(tmp_path / "out")
    for ask in (
        lambda: pool.reward(),
        lambda: pool.posterior(),
        lambda: pool.basis_id,
        lambda: pool.num_members,
        lambda: pool.ddof,
        lambda: pool.canned,
        lambda: pool.has_centered_variance,
        lambda: pool.column("reward_mean"),
    ):
        with pytest.raises(DataError, match="has the rewards a, b, and one is needed here: name it in a utility"):
            ask()
    with pytest.raises(DataError, match="no reward 'c'; it has a, b"):
        pool.reward("c")
    assert not pool.has_variance
    assert columns(pool.reward("a").reward("reward")) == columns(pool.reward("a"))
    score({"only": folders["bert"]}, POOLS, tmp_path / "only", progress=False)
    only = read_scored(tmp_path / "only")
    assert only.reward().column("reward_mean").isfinite().all()
    with pytest.raises(DataError, match=r"its reward under the name 'only', .*--model FOLDER"):
        only.posterior()
    # what was scored is scored again by another model; the first rewards are columns of the pool now
    score({"c": folders["bert"], "b": folders["bert"]}, tmp_path / "out", tmp_path / "again", progress=False)
    again = read_scored(tmp_path / "again")
    assert again.reward_names == ("c", "b")
    assert again.table["a_reward_mean"].to_pylist() == pool.table["a_reward_mean"].to_pylist()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no model to score with"),
        (["Helpful"], "'Helpful' cannot name a reward: take small letters"),
        (["1st"], "'1st' cannot name a reward"),
        (["reward"], "'reward' cannot name a reward, since it means something else"),
        (["my_reward_mean"], "'my_reward_mean' cannot name a reward"),
        (["all_of"], "'all_of' cannot name a reward"),
        (["a", "a_prompt"], "rewards 'a' and 'a_prompt' would share a column a_prompt_truncated"),
    ],
)
def test_names_that_rewards_cannot_have_are_refused_before_anything_is_read(names, message, tmp_path):
    with pytest.raises(DataError, match=message):
        score(dict.fromkeys(names, "no such folder"), "no such file", tmp_path / "out")


def test_bad_input_is_told_with_the_name_of_the_model(folders, tiny_models, tmp_path):
    named = {"a": folders["bert"], "b": folders["last_layer"]}
    with pytest.raises(DataError, match="canned text is given for 'c', and no model is called that; there is a, b"):
        score(named, "no such file", tmp_path / "out", canned={"c": "no"})
    with pytest.raises(DataError, match="there is one model, without a name: leave the name out"):
        score(folders["bert"], "no such file", tmp_path / "out", canned={"c": "no"})
    with pytest.raises(PosteriorError, match="a: a factor needs a posterior"):
        score(named, POOLS, tmp_path / "out", factor=True, progress=False)
    with pytest.raises(ModelError, match="there is no folder /nowhere"):
        score({"a": "/nowhere", "b": folders["bert"]}, POOLS, tmp_path / "out", progress=False)
    with pytest.raises(ModelError, match="c: the model's head was never trained"):
        score({"c": tiny_models("bert", head=False)}, POOLS, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="which model has the posterior"):
        score(named, POOLS, tmp_path / "out", posterior=PlainRewards())
    long = [{"prompt": "name", "responses": ["pear " * 200]}]
    with pytest.raises(DataError, match=r"a: prompts 0 to 0: .*exceed 128 tokens"):
        score(named, long, tmp_path / "out", strict=True, progress=False)
    with pytest.raises(DataError, match="prompt 0, the canned text"):
        score(folders["bert"], POOLS, tmp_path / "out", canned="pear " * 200, strict=True, progress=False)
    assert not list(tmp_path.iterdir())
    # loaded models bring their posteriors along
    model = RewardModel.from_pretrained(folders["last_layer"])
    ready = ModelScorer(model, load_posterior(folders["last_layer"], model))
    score({"b": ready}, POOLS, tmp_path / "ready", progress=False)
    score(ready, POOLS, tmp_path / "plain", progress=False)
    assert columns(read_scored(tmp_path / "ready").reward()) == columns(read_scored(tmp_path / "plain"))
    with pytest.raises(ValueError, match="leave posterior out"):
        score(ready, POOLS, tmp_path / "out", posterior=PlainRewards())


def test_outputs_of_a_version_without_canned_texts_are_still_known(folders, tmp_path):
    summary = score(folders["bert"], POOLS, tmp_path / "out", progress=False)
    place = tmp_path / "out" / "_manifest.json"
    manifest = json.loads(place.read_text())
    del manifest["canned"]
    place.write_text(json.dumps(manifest))
    assert score(folders["bert"], POOLS, tmp_path / "out", progress=False) == summary
    with pytest.raises(PrudentError, match="another canned"):
        score(folders["bert"], POOLS, tmp_path / "out", canned="no", progress=False)
