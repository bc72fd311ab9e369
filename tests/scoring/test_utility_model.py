"""Values of texts are those that the scored file of the same texts gives."""

import json

import pytest
import torch

from prudent.errors import DataError
from prudent.models import RewardModel
from prudent.posteriors import EnsembleScorer, ModelScorer, PlainRewards, ScoredMember, fit, load_scorer
from prudent.scoring import (
    UtilityModel,
    explain,
    fit_utility,
    read_scored,
    save_utility,
    score,
    select,
    utility_for,
)

PAIRS = [
    {"prompt": f"name a fruit {word}", "chosen": f"apple {word} yes", "rejected": f"{word} stone house"}
    for word in ("one", "two", "three", "four", "five", "six")
]
WORDS = ["apple", "pear", "plum", "river", "stone", "bird", "house"]
POOLS = [
    {"prompt": f"tell me about {word}", "responses": [f"{word} is {other}" for other in WORDS if other != word]}
    for word in WORDS
]
POOLS[0]["prompt"] = [
    {"role": "system", "content": "name a fruit"},
    {"role": "user", "content": "tell me"},
]
POOLS[0]["responses"][3] = POOLS[0]["responses"][0]
CANNED = "no , maybe"


@pytest.fixture(scope="module")
def scorers(tiny_models, tmp_path_factory) -> dict[str, ModelScorer]:
    folder = tmp_path_factory.mktemp("fitted")
    found = {}
    for name, kind in (("helpful", "llama"), ("harmless", "bert")):
        fit(tiny_models(kind), PAIRS, folder / name, progress=False)
        found[name] = load_scorer(folder / name)
    return found


@pytest.fixture(scope="module")
def files(scorers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    options = {"num_references": 3, "progress": False}
    score(scorers, POOLS, folder / "plain", **options)
    score(scorers, POOLS, folder / "canned", canned={"harmless": CANNED}, **options)
    score(scorers["helpful"], POOLS, folder / "one", factor=True, **options)
    return {name: read_scored(folder / name) for name in ("plain", "canned", "one")}


def texts(order: list[int]) -> tuple[list, list[str]]:
    """Prompts and responses of the pool's rows at some places."""
    prompts = [row["prompt"] for row in POOLS for _ in row["responses"]]
    responses = [text for row in POOLS for text in row["responses"]]
    return [prompts[place] for place in order], [responses[place] for place in order]


ROWS = torch.randperm(42, generator=torch.Generator().manual_seed(0))[:30].tolist()


def check(worth: UtilityModel, pool, utility) -> None:
    """The values are those of the pool, in the order asked for."""
    fitted = utility_for(pool, utility)
    expected = fitted(pool.reward_set())[ROWS]
    assert expected.isfinite().all()
    found = worth(*texts(ROWS))
    assert torch.allclose(found.value.double(), expected.double(), atol=1e-4)
    assert list(found.components)[-1] == found.steps[-1].source
    for step, of_pool in zip(found.steps, fitted.trace(pool.reward_set()), strict=True):
        assert step.source == of_pool.source
        assert torch.allclose(step.mean.double(), of_pool.mean[ROWS].double(), atol=1e-4)


BOTH = "all_of(helpful | center(q=0.5) | log_sigmoid, harmless | center(mean) | log_sigmoid) | lcb_std"


@pytest.mark.parametrize(
    "utility", ["helpful | lcb_std(2)", "weighted(helpful, harmless, weights=[1, 2]) | mean", BOTH]
)
def test_with_the_references_at_hand(scorers, files, utility):
    check(UtilityModel(scorers, utility, references=files["plain"]), files["plain"], utility)


def test_a_saved_utility_with_and_without_the_references(scorers, files, tmp_path):
    save_utility(fit_utility(files["plain"], BOTH), tmp_path)
    check(UtilityModel(scorers, tmp_path, references=files["plain"]), files["plain"], BOTH)
    # what is stored is the level: means are the same, the variance is the reward's own
    means = "weighted(helpful | center(q=0.5), harmless | center(mean), weights=[1, 2]) | mean"
    save_utility(fit_utility(files["plain"], means), tmp_path, overwrite=True)
    check(UtilityModel(scorers, tmp_path), files["plain"], means)


def test_a_canned_response_is_read_along(scorers, files):
    utility = f'harmless | center(canned="{CANNED}") | log_sigmoid | lcb_std'
    check(UtilityModel(scorers, utility), files["canned"], utility)
    folders_alone = UtilityModel({"harmless": scorers["harmless"]}, utility)
    new = folders_alone(["never seen"] * 2, ["apple", CANNED])
    assert new.components[f'harmless | center(canned="{CANNED}")'][1] == 0


def test_one_model_without_a_name_and_one_reference_for_all(scorers, files, tmp_path):
    save_utility(fit_utility(files["one"], "center(of=all) | mean"), tmp_path)
    worth = UtilityModel(scorers["helpful"], tmp_path)
    check(worth, files["one"], tmp_path)
    assert worth(["never seen"], ["apple"]).value.isfinite().all()
    check(UtilityModel(scorers["helpful"], "lcb_var(0.5)"), files["one"], "lcb_var(0.5)")
    draws = UtilityModel(scorers["helpful"], "thompson")(*texts(ROWS)).value
    assert draws.isfinite().all()


def test_the_factor_of_references_gives_the_contrast_without_their_texts(scorers, files, tmp_path):
    utility = "center(mean) | lcb_std"
    save_utility(fit_utility(files["one"], utility), tmp_path)
    assert torch.equal(*(utility_for(files["one"], one)(files["one"].reward_set()) for one in (tmp_path, utility)))
    found = UtilityModel(scorers["helpful"], tmp_path)(*texts(ROWS))
    expected = utility_for(files["one"], utility).trace(files["one"].reward_set())
    # the factor is stored in half precision
    assert torch.allclose(found.steps[1].std.double(), expected[1].std[ROWS], rtol=0.01, atol=1e-3)
    assert torch.allclose(found.value.double(), expected[2].mean[ROWS], rtol=0.01, atol=3e-3)


@pytest.mark.parametrize(
    "utility", ["center | lcb_std", "center(q=0.4) | log_sigmoid | cvar", "temperature(2) | center(mean) | lcb_std"]
)
def test_a_text_is_worth_the_same_wherever_it_is_read(scorers, files, utility, tmp_path):
    """By select of the file, by the saved utility alone, and with the texts of the references at hand."""
    pool = files["one"]
    expected = utility_for(pool, utility)(pool.reward_set())[ROWS].double()
    save_utility(fit_utility(pool, utility), tmp_path)
    assert torch.equal(utility_for(pool, tmp_path)(pool.reward_set())[ROWS].double(), expected)
    for references in (None, pool):
        found = UtilityModel(scorers["helpful"], tmp_path, references=references)(*texts(ROWS)).value.double()
        # the factor is stored in half precision
        assert torch.allclose(found, expected, rtol=0.01, atol=3e-3)
    without = UtilityModel(scorers["helpful"], utility, references=pool)(*texts(ROWS)).value.double()
    assert torch.allclose(without, expected, rtol=0.01, atol=3e-3)


def test_without_a_factor_the_references_are_needed_for_the_same_values(scorers, files, tmp_path):
    pool, utility = files["plain"], "helpful | center | lcb_std"
    expected = utility_for(pool, utility)(pool.reward_set())[ROWS].double()
    save_utility(fit_utility(pool, utility), tmp_path)
    found = UtilityModel(scorers, tmp_path, references=pool)(*texts(ROWS)).value.double()
    assert torch.allclose(found, expected, atol=1e-4)
    # the level alone is stored, and the variance is the reward's own
    alone = UtilityModel(scorers, tmp_path)(*texts(ROWS))
    own = pool.reward_set().rewards["helpful"].variance.sqrt()[ROWS].double()
    assert torch.allclose(alone.steps[1].std.double(), own, atol=1e-4)


@pytest.mark.parametrize("utility", ["prob_best", "thompson", "center | log_sigmoid | prob_best", "center | thompson"])
def test_joint_draws_are_those_of_the_whole_pool(files, utility, tmp_path):
    select(files["one"], tmp_path / "picks.jsonl", utility=utility, seed=3)
    for pick in map(json.loads, (tmp_path / "picks.jsonl").read_text().splitlines()):
        found = explain(files["one"], utility, pick["prompt_id"], seed=3)
        assert pick["response_id"] in found.winners
        assert found.responses[0].mean[-1] == pytest.approx(pick["utility"])


def test_members_of_an_ensemble(scorers, tmp_path):
    members = [ScoredMember("a", scorers["helpful"], 1.0, 0.0), ScoredMember("b", scorers["harmless"], 2.0, 0.5)]
    ensemble = EnsembleScorer(members)
    score(ensemble, POOLS, tmp_path / "scored", num_references=3, progress=False)
    pool = read_scored(tmp_path / "scored")
    utility = "center(mean) | worst"
    check(UtilityModel(ensemble, utility, references=pool), pool, utility)
    saved = fit_utility(pool, utility, tmp_path / "saved")
    check(UtilityModel(ensemble, saved), pool, tmp_path / "saved")
    learned = fit_utility(pool, "center(of=learned) | worst", model=ensemble, progress=False)
    check(UtilityModel(ensemble, learned), pool, learned)


def test_a_learned_reference_reads_the_prompts(scorers, files, tmp_path):
    learned = "center(q=0.5, of=learned) | mean"
    saved = fit_utility(files["one"], learned, model=scorers["helpful"], progress=False)
    assert saved.learned[0].num_prompts == len(POOLS)
    assert saved.learned[0].rmse > 0
    save_utility(saved, tmp_path)
    worth = UtilityModel(scorers["helpful"], tmp_path)
    check(worth, files["one"], tmp_path)
    assert worth(["never seen"], ["apple"]).value.isfinite().all()
    with pytest.raises(DataError, match="not the one that scored"):
        fit_utility(files["one"], learned, model=scorers["harmless"], progress=False)


def test_values_do_not_depend_on_what_else_is_asked(scorers, files):
    worth = UtilityModel(scorers, BOTH, references=files["plain"])
    prompts, responses = texts(ROWS)
    together = worth(prompts, responses).value
    alone = torch.cat([worth([prompt], [text]).value for prompt, text in zip(prompts[:4], responses, strict=False)])
    assert torch.allclose(alone, together[:4], atol=1e-4)
    messages = [[{"role": "assistant", "content": text}] for text in responses[:4]]
    assert torch.equal(worth(prompts[:4], messages).value, worth(prompts[:4], responses[:4]).value)
    assert len(worth([], []).value) == 0


def test_what_does_not_go_together(scorers, files, tmp_path):
    with pytest.raises(ValueError, match="1 prompts and 2 responses"):
        UtilityModel(scorers, "helpful | mean")(["a"], ["b", "c"])
    with pytest.raises(DataError, match=r"no model for the reward 'harmful'; there is helpful, harmless"):
        UtilityModel(scorers, "harmful | mean")
    with pytest.raises(DataError, match="give models by name"):
        UtilityModel(scorers["helpful"], "helpful | mean")
    with pytest.raises(DataError, match=r"`helpful \| center` needs reference responses"):
        UtilityModel(scorers, "helpful | center")
    plain = ModelScorer(scorers["helpful"].model, PlainRewards())
    with pytest.raises(DataError, match="no posterior"):
        UtilityModel(plain, "lcb_std")
    assert isinstance(plain.model, RewardModel)
    save_utility(fit_utility(files["one"], "center"), tmp_path)
    with pytest.raises(DataError, match="another model or posterior"):
        UtilityModel(scorers["harmless"], tmp_path)
    worth = UtilityModel(scorers["helpful"], tmp_path)
    with pytest.raises(DataError, match=r"`center` has no reference responses to the prompt 'never seen' \(1 "):
        worth(["never seen"], ["apple"])
    with pytest.raises(DataError, match="the references have no responses to the prompt 'never seen'"):
        UtilityModel(scorers, "helpful | lcb_std", references=files["plain"])(["never seen"], ["apple"])


def test_another_model_without_a_posterior_is_refused_also_where_none_has_one(tiny_models, tmp_path):
    folders = {kind: tiny_models(kind) for kind in ("llama", "bert")}
    score(folders["llama"], POOLS, tmp_path / "scored", num_references=3, progress=False)
    scored = read_scored(tmp_path / "scored")
    assert scored.basis_id is None
    assert scored.model is not None
    fit_utility(scored, "center | mean", tmp_path / "careful")
    with pytest.raises(DataError, match="another model or posterior"):
        UtilityModel(folders["bert"], tmp_path / "careful")
    # reading it in half precision makes it no other model
    UtilityModel(folders["llama"], tmp_path / "careful", dtype="bfloat16")
    check(UtilityModel(folders["llama"], tmp_path / "careful"), scored, "center | mean")


def test_the_joint_posterior_before_the_rule(scorers, files):
    worth = UtilityModel(scorers["helpful"], "lcb_std(2)", factor=True, embeddings=True)
    found = worth(*texts(ROWS))
    pool = files["one"]
    assert torch.allclose(found.posterior.mean.double(), pool.column("reward_mean")[ROWS], atol=1e-4)
    covariance = pool.posterior().covariance(torch.tensor(ROWS)).double()
    # the factor is stored in half precision
    assert torch.allclose(
        found.posterior.covariance().double(), covariance, rtol=0.01, atol=0.01 * covariance.abs().max()
    )
    assert found.embedding.shape == (len(ROWS), 32)
    assert torch.equal(
        worth(*texts(ROWS[:4])).value, UtilityModel(scorers["helpful"], "lcb_std(2)")(*texts(ROWS[:4])).value
    )
    with pytest.raises(ValueError, match="no responses"):
        _ = worth([], []).posterior
    with pytest.raises(DataError, match=r"features are those of one model, and .* reads helpful, harmless"):
        UtilityModel(scorers, BOTH, references=files["plain"], embeddings=True)


def test_the_joint_posterior_of_transforms_and_of_parts_with_rules(scorers, files):
    """It is that of the same utility without rules, with draws where there is no closed form."""
    parts = "weighted(helpful | center(mean) | {rule}, harmless | center(mean) | {rule}, weights=[1, 2])"
    ruled = UtilityModel(scorers, parts.format(rule="lcb_std"), references=files["plain"], factor=True)
    plain = UtilityModel(scorers, parts.replace(" | {rule}", "") + " | lcb_std", references=files["plain"], factor=True)
    first, second = (one(*texts(ROWS)).posterior for one in (ruled, plain))
    assert torch.equal(first.mean, second.mean)
    i, j = torch.tensor([0, 1, 2]), torch.tensor([5, 6, 7])
    assert torch.equal(first.contrast(i, j)[1], second.contrast(i, j)[1])
    both = UtilityModel(scorers, BOTH, references=files["plain"], factor=True)(*texts(ROWS))
    drawn = both.posterior.sample(4096, torch.Generator().manual_seed(0))
    error = drawn.double().std(0) / 64
    assert bool(((both.posterior.mean.double() - drawn.double().mean(0)).abs() < 5 * error).all())
    assert both.posterior.covariance(torch.tensor([0, 1])).shape == (2, 2)


def test_which_prompts_are_known(scorers, files, tmp_path):
    save_utility(fit_utility(files["one"], "center"), tmp_path)
    prompts = [POOLS[1]["prompt"], "never seen", POOLS[0]["prompt"]]
    assert UtilityModel(scorers["helpful"], tmp_path).knows(prompts) == [True, False, True]
    assert UtilityModel(scorers["helpful"], "mean", references=files["one"]).knows(prompts) == [True, False, True]
    assert UtilityModel(scorers["helpful"], "lcb_std").knows(prompts) == [True, True, True]
