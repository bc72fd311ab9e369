"""Values of completions are those of the same texts scored from a file; the rest is told from them."""

import json
import pickle
import subprocess
import sys
import warnings

import pytest
import torch

from prudent.alignment import PrudentReward, sign_weights, signcert_weights
from prudent.errors import DataError, ModelError, UnsupportedError, UtilityError
from prudent.models import RewardModel
from prudent.posteriors import load_scorer
from prudent.scoring import UtilityModel, fit_utility, read_scored, score, select, utility_for
from prudent.utility import LcbStd, reward

WORDS = ["apple", "pear", "plum", "river", "stone"]
POOLS = [
    {"prompt": f"tell me about {word}", "responses": [f"{word} is {other}" for other in WORDS if other != word]}
    for word in WORDS
]
PROMPTS = [row["prompt"] for row in POOLS for _ in row["responses"]]
COMPLETIONS = [text for row in POOLS for text in row["responses"]]
CANNED = "no , maybe"
ORDER = torch.randperm(len(PROMPTS), generator=torch.Generator().manual_seed(0)).tolist()
CENTERED = "center(mean) | log_sigmoid | lcb_std(0.5)"


@pytest.fixture(scope="module")
def files(reward_models, tmp_path_factory):
    """Scored files of the pool."""
    folder = tmp_path_factory.mktemp("scored")
    options = {"num_references": 2, "progress": False}
    score(reward_models["helpful"], POOLS, folder / "one", factor=True, **options)
    score(reward_models["helpful"], POOLS, folder / "canned", canned=CANNED, **options)
    score(reward_models["heads"], POOLS, folder / "heads", **options)
    return {name: folder / name for name in ("one", "canned", "heads")}


def expected(file, utility) -> torch.Tensor:
    pool = read_scored(file)
    return utility_for(pool, utility)(pool.reward_set()).double()


def values(given: PrudentReward, order=None) -> torch.Tensor:
    rows = range(len(PROMPTS)) if order is None else order
    found = given(prompts=[PROMPTS[row] for row in rows], completions=[COMPLETIONS[row] for row in rows])
    assert all(isinstance(one, float) for one in found)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(
    ("model", "utility", "file", "has_references"),
    [
        ("helpful", "mean", "one", False),
        ("helpful", "lcb_std(1)", "one", False),
        ("helpful", CENTERED, "one", True),
        ("helpful", f'center(canned="{CANNED}") | log_sigmoid | lcb_std', "canned", False),
        ("heads", "worst", "heads", False),
        ("heads", "center | worst", "heads", True),
    ],
)
def test_values_are_those_of_the_scored_file(model, utility, file, has_references, reward_models, files):
    references = files[file] if has_references else None
    given = PrudentReward(reward_models[model], utility, references=references)
    truth = expected(files[file], utility)
    assert truth.std() > 0.01
    torch.testing.assert_close(values(given), truth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(values(given, ORDER), truth[ORDER], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("utility", [CENTERED, "center(of=all) | mean", "center(q=0.5, of=learned) | mean"])
def test_values_of_a_saved_utility(utility, reward_models, files, tmp_path):
    learned = load_scorer(reward_models["helpful"]) if "learned" in utility else None
    fit_utility(read_scored(files["one"]), utility, tmp_path / "careful", model=learned, progress=False)
    given = PrudentReward(reward_models["helpful"], tmp_path / "careful")
    # the factor of the references is stored in half precision
    torch.testing.assert_close(values(given), expected(files["one"], tmp_path / "careful"), rtol=0.01, atol=3e-3)
    below = given.measure(PROMPTS, COMPLETIONS).is_below_reference
    rewards = read_scored(files["one"]).column("reward_mean")
    assert below is not None
    assert bool((rewards[below].max() < rewards[~below].min()) if "all" in utility else below.any())


def test_the_best_completion_is_the_pick_of_select(reward_models, files, tmp_path):
    select(files["one"], tmp_path / "picks.jsonl", utility="lcb_std(1)")
    picks = [json.loads(line) for line in (tmp_path / "picks.jsonl").read_text().splitlines()]
    found = values(PrudentReward(reward_models["helpful"], reward() | LcbStd(1.0))).reshape(len(POOLS), -1)
    assert found.argmax(1).tolist() == [pick["response_id"] for pick in picks]
    assert found.max(1).values.tolist() == pytest.approx([pick["utility"] for pick in picks], abs=1e-4)


def test_values_do_not_depend_on_the_batch(reward_models):
    given = PrudentReward(reward_models["helpful"], "lcb_std(1)")
    truth = values(given)
    torch.testing.assert_close(
        values(PrudentReward(reward_models["helpful"], "lcb_std(1)", tokens_per_batch=16)), truth, rtol=1e-4, atol=1e-4
    )
    alone = [given(prompts=[PROMPTS[row]], completions=[COMPLETIONS[row]])[0] for row in ORDER[:4]]
    torch.testing.assert_close(torch.tensor(alone, dtype=torch.float64), truth[ORDER[:4]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["helpful", "heads"])
def test_std_and_contrast_std_are_those_of_the_dense_covariance(model, reward_models, files):
    given = PrudentReward(reward_models[model], "lcb_std(1)")
    found = given.measure([PROMPTS[row] for row in ORDER], [COMPLETIONS[row] for row in ORDER])
    pool = read_scored(files["one" if model == "helpful" else "heads"])
    covariance = pool.posterior().covariance().double()[ORDER][:, ORDER]
    same = found.group[:, None] == found.group[None, :]
    others = same & ~torch.eye(len(ORDER), dtype=torch.bool)
    contrast = torch.eye(len(ORDER), dtype=torch.float64) - others / others.sum(1, keepdim=True)
    dense = (contrast @ covariance @ contrast.T).diagonal().clamp(min=0).sqrt()
    # both read factors in half precision
    torch.testing.assert_close(found.contrast_std, dense, rtol=0.02, atol=0.02)
    torch.testing.assert_close(found.std, pool.column("reward_variance")[ORDER].sqrt(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.std.square(), found.posterior.variance.double(), rtol=1e-4, atol=1e-4)
    assert [PROMPTS[row] for row in ORDER] == [found_prompt(found, place) for place in range(len(ORDER))]


def found_prompt(found, place: int) -> str:
    """The prompt that has the number of a completion's group; numbers are given in order of appearance."""
    return list(dict.fromkeys(PROMPTS[row] for row in ORDER))[int(found.group[place])]


def test_a_prompt_without_references_is_not_applicable(reward_models, files):
    given = PrudentReward(reward_models["helpful"], CENTERED, references=files["one"])
    logged = {}
    prompts = ["never seen", PROMPTS[0], "never seen"]
    found = given(prompts=prompts, completions=["apple", COMPLETIONS[0], "plum"], log_metric=logged.__setitem__)
    assert found[0] is None
    assert found[2] is None
    assert found[1] == pytest.approx(float(expected(files["one"], CENTERED)[0]), abs=1e-3)
    measures = given.measure(prompts, ["apple", COMPLETIONS[0], "plum"])
    assert measures.is_applicable.tolist() == [False, True, False]
    assert logged["prudent/share_below_reference"] in (0.0, 1.0)
    assert given.sign_column()(prompts=prompts, completions=["apple", COMPLETIONS[0], "plum"]) == [None] * 3
    with pytest.warns(UserWarning, match="no prompt of a batch has references"):
        assert given(prompts=["never seen"], completions=["apple"], log_metric=logged.__setitem__) == [None]
    assert given.variance_column()(prompts=["never seen"], completions=["apple"]) == [None]
    assert given(prompts=[], completions=[]) == []


def test_what_is_logged(reward_models, files):
    given = PrudentReward(reward_models["helpful"], CENTERED, references=files["one"], name="careful")
    metrics, extra = {}, {}
    value = given(
        prompts=PROMPTS,
        completions=COMPLETIONS,
        completion_ids=[[1]] * len(PROMPTS),
        trainer_state=None,
        topic=["fruit"] * len(PROMPTS),
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
    )
    pool = read_scored(files["one"])
    steps = utility_for(pool, CENTERED).trace(pool.reward_set())
    assert metrics == {
        "careful/reward_mean": pytest.approx(float(steps[-2].mean.mean()), rel=1e-3),
        "careful/reward_std": pytest.approx(float(steps[-2].std.mean()), rel=1e-3),
        "careful/contrast_std": pytest.approx(metrics["careful/contrast_std"]),
        "careful/reward": pytest.approx(float(pool.column("reward_mean").mean()), rel=1e-3),
        "careful/share_below_reference": pytest.approx(float((steps[1].mean < 0).double().mean())),
        "careful/share_empty": 0.0,
    }
    assert metrics["careful/contrast_std"] > 0
    assert list(extra) == ["careful_reward_mean", "careful_reward_std"]
    assert extra["careful_reward_mean"] == pytest.approx(steps[-2].mean.tolist(), abs=1e-3)
    assert len(value) == len(extra["careful_reward_std"]) == len(PROMPTS)
    # without a center in the utility, below the average of the references that are read along
    plain = PrudentReward(reward_models["helpful"], references=files["one"]).measure(PROMPTS, COMPLETIONS)
    assert plain.is_below_reference.tolist() == (steps[1].mean < 0).tolist()
    assert PrudentReward(reward_models["helpful"]).measure(PROMPTS, COMPLETIONS).is_below_reference is None


def test_several_rewards_and_parts_with_rules_of_their_own(reward_models):
    models = {name: reward_models[name] for name in ("helpful", "harmless")}
    for utility in (
        "weighted(helpful, harmless, weights=[1, 2]) | lcb_std",
        "weighted(helpful | lcb_std, harmless | mean, weights=[1, 2])",
    ):
        given = PrudentReward(models, utility)
        found = given.measure(PROMPTS, COMPLETIONS)
        direct = UtilityModel(models, utility)(PROMPTS, COMPLETIONS)
        torch.testing.assert_close(found.value, direct.value.double(), rtol=1e-4, atol=1e-4)
        assert set(found.components) == {"helpful", "harmless"}
        variances = {name: direct.rewards.rewards[name].variance.double() for name in models}
        torch.testing.assert_close(
            found.std.square(), variances["helpful"] + 4 * variances["harmless"], rtol=1e-4, atol=0
        )
        assert bool(found.contrast_std.isfinite().all())
    with pytest.raises(DataError, match="features are those of one model"):
        given.sign_column("signcert")(prompts=PROMPTS, completions=COMPLETIONS)


def test_columns_come_from_the_same_reading(reward_models, monkeypatch):
    given = PrudentReward(reward_models["helpful"])
    columns = [given.variance_column(), given.variance_column("contrast"), given.sign_column()]
    signcert = given.sign_column("signcert")
    assert [column.__name__ for column in columns] == ["variance", "variance", "sign_weight"]
    readings = []
    read = UtilityModel.__call__
    monkeypatch.setattr(UtilityModel, "__call__", lambda *args: readings.append(1) or read(*args))
    data = {"prompts": PROMPTS, "completions": COMPLETIONS, "completion_ids": [[1]] * len(PROMPTS), "trainer_state": 0}
    given(**data)
    variance, contrast, sign = (torch.tensor(column(**data), dtype=torch.float64) for column in columns)
    certified = torch.tensor(signcert(**data), dtype=torch.float64)
    assert len(readings) == 1
    found = given.measure(PROMPTS, COMPLETIONS, data["completion_ids"])
    torch.testing.assert_close(variance, found.std.square())
    torch.testing.assert_close(contrast, found.contrast_std.square())
    torch.testing.assert_close(sign, sign_weights(found.posterior))
    torch.testing.assert_close(certified, signcert_weights(found.mean, found.embedding.float(), found.group))
    assert found.embedding.shape == (len(PROMPTS), 32)
    given(prompts=PROMPTS[:2], completions=COMPLETIONS[:2])
    assert len(readings) == 2
    # a list that a trainer fills anew is another batch
    texts = list(COMPLETIONS[:2])
    first = given(prompts=PROMPTS[:2], completions=texts)
    texts[0] = "stone"
    assert given(prompts=PROMPTS[:2], completions=texts) != first


def test_a_model_without_a_posterior(reward_models):
    given = PrudentReward(reward_models["plain"])
    metrics = {}
    found = given(prompts=PROMPTS, completions=COMPLETIONS, log_metric=metrics.__setitem__)
    assert all(value is not None for value in found)
    assert set(metrics) == {"prudent/reward_mean", "prudent/reward", "prudent/share_empty"}
    with pytest.raises(UnsupportedError, match="has no variance for 'variance': fit a posterior"):
        given.variance_column()(prompts=PROMPTS, completions=COMPLETIONS)
    assert len(given.sign_column("signcert")(prompts=PROMPTS, completions=COMPLETIONS)) == len(PROMPTS)
    with pytest.raises(DataError, match="no posterior"):
        PrudentReward(reward_models["plain"], "lcb_std").load()


@pytest.mark.parametrize("model", ["helpful", "heads", "lora"])
def test_loading_leaves_the_random_numbers_of_a_trainer(model, reward_models):
    reward = PrudentReward(reward_models[model])
    before = torch.random.get_rng_state()
    reward(PROMPTS, COMPLETIONS)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_can_be_pickled_before_and_after_a_call(reward_models, files, tmp_path, monkeypatch):
    monkeypatch.chdir(reward_models["helpful"].parent)
    given = PrudentReward("helpful", CENTERED, references=files["one"], name="careful")
    fresh = pickle.dumps(given)
    first = given(prompts=PROMPTS[:3], completions=COMPLETIONS[:3])
    used = pickle.dumps([given, given.variance_column(), given.sign_column("signcert")])
    assert len(used) < 2000
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(fresh)(prompts=PROMPTS[:3], completions=COMPLETIONS[:3]) == first
    again, variance, sign = pickle.loads(used)
    assert variance.reward is again
    assert sign.__name__ == "sign_weight"
    assert again(prompts=PROMPTS[:3], completions=COMPLETIONS[:3]) == pytest.approx(first)
    assert len(variance(prompts=PROMPTS[:3], completions=COMPLETIONS[:3])) == 3


@pytest.mark.slow
def test_it_works_in_a_process_that_was_spawned(reward_models):
    """A new interpreter imports torch and transformers: some seconds."""
    given = PrudentReward(reward_models["helpful"], name="careful")
    program = (
        "import json, pickle, sys\n"
        "reward, prompts, completions = pickle.load(sys.stdin.buffer)\n"
        "print(json.dumps([reward.__name__, reward(prompts=prompts, completions=completions)]))\n"
    )
    sent = pickle.dumps((given, PROMPTS[:3], COMPLETIONS[:3]))
    done = subprocess.run([sys.executable, "-c", program], input=sent, stdout=subprocess.PIPE, timeout=200, check=True)
    name, found = json.loads(done.stdout)
    assert name == "careful"
    assert found == pytest.approx(given(prompts=PROMPTS[:3], completions=COMPLETIONS[:3]))


def test_conversations(reward_models):
    given = PrudentReward(reward_models["helpful"], "lcb_std")
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    completions = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    with pytest.warns(UserWarning, match="tokenizer has no chat template"):
        found = given(prompts=prompts, completions=completions)
    assert found == given(prompts=PROMPTS, completions=COMPLETIONS)
    several = [[{"role": "system", "content": "be small"}, *prompt] for prompt in prompts]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert given(prompts=several, completions=completions) != found
    image = [[{"role": "user", "content": [{"type": "image"}]}]]
    with pytest.raises(DataError, match="prompt 0 is neither a text nor messages"):
        given(prompts=image, completions=["apple"])
    with pytest.raises(DataError, match="completion 1 is neither a text"):
        given(prompts=PROMPTS[:2], completions=["apple", None])


def test_signs_that_policy_and_reward_model_read_other_texts(reward_models, tmp_path):
    import shutil

    folder = shutil.copytree(reward_models["plain"], tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }}\n{% endfor %}"
    )
    given = PrudentReward(folder)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for word in ("apple", "pear"):
            given(prompts=[f"<|im_start|>user {word}<|im_end|>"], completions=[f"{word}<|im_end|>"])
    messages = [str(one.message) for one in told]
    assert len(messages) == 3
    assert "completions hold special tokens such as '<|im_end|>'" in messages[0]
    assert "prompts hold special tokens such as '<|im_start|>'" in messages[1]
    assert "the reward model's tokenizer has a chat template" in messages[2]


def test_empty_completions_and_completions_that_were_cut(reward_models):
    prompts, completions = [PROMPTS[0]] * 4, ["apple is", " ", "plum is small", "stone"]
    ids = [[7, 8, 9], [2], [7, 8, 2], [7, 2]]
    plain = PrudentReward(reward_models["helpful"])
    truth = plain(prompts=prompts, completions=completions)
    assert plain.measure(prompts, completions).is_empty.tolist() == [False, True, False, False]
    given = PrudentReward(
        reward_models["helpful"], empty="none", truncation_penalty=0.5, max_completion_length=3, eos_token_id=2
    )
    logged = {}
    found = given(prompts=prompts, completions=completions, completion_ids=ids, log_metric=logged.__setitem__)
    assert found == [pytest.approx(truth[0] - 0.5), None, pytest.approx(truth[2]), pytest.approx(truth[3])]
    assert logged["prudent/share_empty"] == 0.25
    assert logged["prudent/share_cut"] == 0.25
    unknown = PrudentReward(reward_models["helpful"], max_completion_length=3)
    assert unknown.measure(prompts, completions, ids).is_truncated.tolist() == [True, False, True, False]
    # the same texts with other tokens are flagged anew
    assert not unknown.measure(prompts, completions, [[1]] * 4).is_truncated.any()
    assert unknown.measure(prompts, completions).is_truncated is None
    with pytest.raises(ValueError, match="a truncation_penalty and no completion_ids"):
        given(prompts, completions)


def test_a_reward_that_is_not_a_number_is_an_error(reward_models, monkeypatch):
    given = PrudentReward(reward_models["plain"])
    model = given.load().scorers["reward"].model
    assert isinstance(model, RewardModel)
    with torch.no_grad():
        model.model.score.weight.fill_(float("nan"))
    with pytest.raises(DataError, match=r"completion 0, 'apple is pear', to the prompt 'tell me about apple' is not a"):
        given(prompts=PROMPTS, completions=COMPLETIONS)


def test_running_out_of_memory_says_which_knob_to_turn(reward_models, monkeypatch):
    given = PrudentReward(reward_models["plain"], tokens_per_batch=4096)

    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(UtilityModel, "__call__", fail)
    with pytest.raises(ModelError, match=r"lower tokens_per_batch of the reward \(it is 4096\)"):
        given(prompts=PROMPTS, completions=COMPLETIONS)


@pytest.mark.parametrize("model", ["helpful", "lora"])
def test_it_reads_where_a_trainer_has_switched_gradients_off(model, reward_models):
    """A posterior over LoRA weights needs gradients of its own."""
    truth = PrudentReward(reward_models[model], "lcb_std")(prompts=PROMPTS, completions=COMPLETIONS)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            given = PrudentReward(reward_models[model], "lcb_std")
            assert given(prompts=PROMPTS, completions=COMPLETIONS) == pytest.approx(truth)


def test_what_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UtilityError):
        PrudentReward("rm", "lcb_stdd(1)")
    with pytest.raises(ValueError, match="empty must be"):
        PrudentReward("rm", empty="skip")
    for option in ("max_completion_length", "tokens_per_batch"):
        with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
            PrudentReward("rm", **{option: 0})
    with pytest.raises(ValueError, match="truncation_penalty must be finite"):
        PrudentReward("rm", truncation_penalty=-1.0)
    with pytest.raises(ValueError, match="needs max_completion_length"):
        PrudentReward("rm", truncation_penalty=1.0)
    for missing in (tmp_path / "rm", str(tmp_path / "rm"), "./rm", "runs/today/rm", {"reward": "../rm"}):
        with pytest.raises(ModelError, match=r"there is no folder .*rm; give the folder"):
            PrudentReward(missing)
    with pytest.raises(DataError, match=r"there is no nope.parquet; give the output of `prudent score`"):
        PrudentReward("rm", references="nope.parquet")
    given = PrudentReward("missing")  # which may be on the hub
    with pytest.raises(ValueError, match="there are 1 prompts and 2 completions"):
        given(prompts=["a"], completions=["b", "c"])
    with pytest.raises(ValueError, match="there are 1 completions and the tokens of 2"):
        given(prompts=["a"], completions=["b"], completion_ids=[[1], [2]])
    with pytest.raises(ValueError, match="of must be"):
        given.variance_column("value")
    with pytest.raises(ValueError, match="kind must be"):
        given.sign_column("sure")
    assert "missing" in repr(given)
