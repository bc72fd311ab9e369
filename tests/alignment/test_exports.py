"""The forms of other trainers: what they are called with, and what they give back."""

import importlib.util
import inspect
import json
import pickle
import sys

import numpy as np
import pytest
import torch

from prudent.alignment import OpenRLHFReward, PrudentReward, VerlReward, write_reward_file
from prudent.errors import DataError, ModelError, PrudentError, UtilityError
from prudent.scoring import score

PROMPTS = ["tell me about apple", "name a fruit please", "tell me about plum"]
RESPONSES = ["apple is red", "plum is small", "stone"]


@pytest.fixture(scope="module")
def truth(reward_models):
    return PrudentReward(reward_models["helpful"], "lcb_std(1)").measure(PROMPTS, RESPONSES)


def test_openrlhf(reward_models, truth):
    reward_func = OpenRLHFReward(reward_models["helpful"], "lcb_std(1)")
    # the call of OpenRLHF 0.11: positions, one query at a time, labels of any kind
    assert list(inspect.signature(reward_func).parameters)[:3] == ["queries", "prompts", "labels"]
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        found = reward_func([f"<s> {prompt}{response}<|im_end|>\n</s>"], [prompt], [None])
        assert list(found) == ["rewards", "scores", "extra_logs"]
        assert found["rewards"].shape == found["scores"].shape == (1,)
        assert float(found["rewards"]) == pytest.approx(float(truth.value[row]), abs=1e-4)
        assert float(found["scores"]) == pytest.approx(float(truth.value[row].sigmoid()), abs=1e-4)
        assert set(found["extra_logs"]) == {"reward_mean", "reward_std", "reward_lcb", "empty"}
        # which it puts into a tensor once more
        assert all(torch.tensor([value]).numel() == 1 for value in found["extra_logs"].values())
        assert float(found["extra_logs"]["reward_mean"]) == pytest.approx(float(truth.mean[row]), abs=1e-4)
        assert float(found["extra_logs"]["reward_std"]) == pytest.approx(float(truth.std[row]), abs=1e-4)
    queries = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    together = reward_func(queries, PROMPTS, ["", 1, {"answer": 2}])
    torch.testing.assert_close(together["rewards"].double(), truth.value, rtol=1e-4, atol=1e-4)
    again = pickle.loads(pickle.dumps(reward_func))(queries, PROMPTS, [""] * 3)
    torch.testing.assert_close(again["rewards"], together["rewards"])


def test_the_response_in_a_query(reward_models, truth):
    reward_func = OpenRLHFReward(reward_models["helpful"], "lcb_std(1)", end_of_text="<END>")
    rendered = f"<|im_start|>user\n{PROMPTS[0]}<|im_end|>\n<|im_start|>assistant\n"
    found = reward_func([f"{rendered}{RESPONSES[0]}<END>"], [rendered], [{"prompt": PROMPTS[0]}])
    assert float(found["rewards"]) == pytest.approx(float(truth.value[0]), abs=1e-4)
    messages = [{"role": "user", "content": PROMPTS[0]}]
    with pytest.warns(UserWarning, match="no chat template"):
        found = reward_func([f"{rendered}{RESPONSES[0]}<END>"], [rendered], [{"prompt": messages}])
    assert float(found["rewards"]) == pytest.approx(float(truth.value[0]), abs=1e-4)
    # cut from the left by the policy's limit
    found = reward_func([rendered[10:] + RESPONSES[0]], [rendered], [{"prompt": PROMPTS[0]}])
    assert float(found["rewards"]) == pytest.approx(float(truth.value[0]), abs=1e-4)
    # a prompt of the letters of a special token before it
    found = reward_func([f"<s> s{RESPONSES[0]}</s>"], ["s"], [{"prompt": PROMPTS[0]}])
    assert float(found["rewards"]) == pytest.approx(float(truth.value[0]), abs=1e-4)
    with pytest.raises(ValueError, match="there are 1 queries, 3 prompts and 1 labels"):
        reward_func(["tell me"], PROMPTS, [""])
    with pytest.raises(DataError, match="does not hold its prompt 'tell me about apple'"):
        reward_func(["tellme about apple is red"], PROMPTS[:1], [""])
    empty = reward_func([PROMPTS[0] + "</s>"], PROMPTS[:1], [""])
    assert float(empty["extra_logs"]["empty"]) == 1


def test_scores_of_probabilities_are_probabilities(reward_models, tmp_path):
    pools = [{"prompt": prompt, "responses": RESPONSES} for prompt in PROMPTS]
    score(reward_models["helpful"], pools, tmp_path / "scored", progress=False)
    queries = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    given = {
        utility: OpenRLHFReward(reward_models["helpful"], utility, references=tmp_path / "scored")(
            queries, PROMPTS, PROMPTS
        )
        for utility in ("center(mean) | log_sigmoid", "center(mean) | sigmoid")
    }
    log_probability, probability = given.values()
    torch.testing.assert_close(log_probability["scores"], log_probability["rewards"].exp())
    torch.testing.assert_close(probability["scores"], probability["rewards"])
    never_seen = OpenRLHFReward(reward_models["helpful"], "center | mean", references=tmp_path / "scored")
    with pytest.raises(DataError, match="the prompt 'the river ' has no reference responses"):
        never_seen(["the river sings"], ["the river "], [""])


def test_verl(reward_models, truth):
    compute_score = VerlReward(reward_models["helpful"], "lcb_std(1)")
    assert list(inspect.signature(compute_score).parameters)[:4] == [
        "data_source",
        "solution_str",
        "ground_truth",
        "extra_info",
    ]
    keys = set()
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        # the call of verl 0.8: keywords, more of them with a reward router
        found = compute_score(
            data_source="fruit",
            solution_str=response,
            ground_truth=None,
            extra_info={"index": row, "prompt": prompt, "num_turns": 1},
            reward_router_address=None,
            reward_model_tokenizer=None,
        )
        assert all(type(value) is float for value in found.values())
        assert found["score"] == pytest.approx(float(truth.value[row]), abs=1e-4)
        keys.add(tuple(found))
    assert keys == {("score", "reward_mean", "empty", "reward_std", "reward_lcb")}
    json.dumps(found)
    messages = np.array([{"role": "user", "content": PROMPTS[0]}], dtype=object)
    with pytest.warns(UserWarning, match="no chat template"):
        found = compute_score("fruit", RESPONSES[0], "", {"prompt": messages})
    assert found["score"] == pytest.approx(float(truth.value[0]), abs=1e-4)
    with pytest.raises(DataError, match=r"verl passes no prompt .* \(extra_info has index\)"):
        compute_score("fruit", RESPONSES[0], "", {"index": 1})
    with pytest.raises(DataError, match="extra_info is not there"):
        compute_score("fruit", RESPONSES[0], "")
    plain = VerlReward(reward_models["plain"])("fruit", RESPONSES[0], "", {"prompt": PROMPTS[0]})
    assert set(plain) == {"score", "reward_mean", "empty"}


def loaded(path, name):
    """As OpenRLHF and verl load a file."""
    spec = importlib.util.spec_from_file_location("my_reward", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_trls_own_command_line_takes_the_file(reward_models, truth, tmp_path, monkeypatch):
    """`trl rloo --reward_funcs my_reward.reward`, up to where the trainer is built."""
    script = pytest.importorskip("trl.scripts.rloo")
    import datasets
    import trl

    class Built(Exception):
        pass

    def built(*, reward_funcs, **_):
        raise Built(reward_funcs)

    path = tmp_path / "some_reward.py"
    usage = write_reward_file(path, reward_models["helpful"], "lcb_std(1)").usage.split()
    assert usage[:2] == ["trl", "rloo"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trl, "RLOOTrainer", built)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": []})
    options = ["--dataset_name", "none", "--output_dir", "out", "--use_cpu", "True", "--bf16", "False"]
    parsed = script.make_parser().parse_args_and_config([*usage[2:], *options])
    try:
        with pytest.raises(Built) as stopped:
            script.main(*parsed)
        (reward,) = stopped.value.args[0]
        again = pickle.loads(pickle.dumps(reward))
    finally:
        sys.modules.pop("some_reward", None)
    assert again(prompts=PROMPTS, completions=RESPONSES) == pytest.approx(truth.value.tolist(), abs=1e-4)


def test_files_for_trainers(reward_models, truth, tmp_path, monkeypatch):
    monkeypatch.chdir(reward_models["helpful"].parent)
    path = tmp_path / "my_reward.py"
    written = write_reward_file(path, "helpful", "lcb_std(1)", tokens_per_batch=256, dtype=torch.float32)
    assert written.usage == "trl rloo --reward_funcs my_reward.reward"
    assert len(path.read_text().splitlines()) == 5
    monkeypatch.chdir(tmp_path)
    reward = loaded(path, "reward")
    assert reward(prompts=PROMPTS, completions=RESPONSES) == pytest.approx(truth.value.tolist(), abs=1e-4)
    written = write_reward_file(
        "my_reward.py", reward_models["helpful"], "lcb_std(1)", trainer="openrlhf", overwrite=True
    )
    assert written.usage == f"--reward.remote_url {path}"
    found = loaded(path, "reward_func")([PROMPTS[0] + RESPONSES[0]], PROMPTS[:1], [""])
    assert float(found["rewards"]) == pytest.approx(float(truth.value[0]), abs=1e-4)
    written = write_reward_file(path, {"a": reward_models["plain"]}, "a | mean", trainer="verl", overwrite=True)
    assert written.usage == f'custom_reward_function.path={path}  # data need extra_info = {{"prompt": ...}}'
    assert loaded(path, "compute_score")("x", RESPONSES[0], "", {"prompt": PROMPTS[0]})["score"] != 0


@pytest.mark.parametrize("form", [OpenRLHFReward, VerlReward])
def test_options_that_these_trainers_cannot_follow(reward_models, form, tmp_path):
    with pytest.raises(ValueError, match="truncation_penalty is of no use here"):
        form(reward_models["helpful"], truncation_penalty=1.0, max_completion_length=8)
    with pytest.raises(ValueError, match="eos_token_id is of no use here"):
        form(reward_models["helpful"], eos_token_id=[2])
    with pytest.raises(ValueError, match="needs a number for every completion"):
        form(reward_models["helpful"], empty="none")
    trainer = "verl" if form is VerlReward else "openrlhf"
    with pytest.raises(ValueError, match="max_completion_length is of no use here"):
        write_reward_file(tmp_path / "r.py", reward_models["helpful"], trainer=trainer, max_completion_length=8)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_that_would_not_work(reward_models, tmp_path):
    path = tmp_path / "my_reward.py"
    with pytest.raises(UtilityError):
        write_reward_file(path, reward_models["plain"], "lcb_stdd(1)")
    with pytest.raises(DataError, match="reads a reward 'lcb_stdd', and the models are reward"):
        write_reward_file(path, reward_models["plain"], "lcb_stdd")
    with pytest.raises(DataError, match="no posterior"):
        write_reward_file(path, reward_models["plain"], "lcb_std")
    with pytest.raises(ModelError):
        write_reward_file(path, tmp_path / "missing")
    with pytest.raises(ValueError, match="trainer must be one of trl, openrlhf, verl"):
        write_reward_file(path, reward_models["plain"], trainer="slime")
    with pytest.raises(PrudentError, match=r"ends in \.py"):
        write_reward_file(tmp_path / "my_reward", reward_models["plain"])
    with pytest.raises(PrudentError, match="TRL imports it as a module"):
        write_reward_file(tmp_path / "my-reward.py", reward_models["plain"])
    for name in ("torch", "json", "sys", "prudent"):
        with pytest.raises(PrudentError, match=f"there is a module '{name}' already.*such as {name}_reward.py"):
            write_reward_file(tmp_path / f"{name}.py", reward_models["plain"], trainer="verl")
    with pytest.raises(PrudentError, match="there is no folder"):
        write_reward_file(tmp_path / "missing" / "my_reward.py", reward_models["plain"])
    assert list(tmp_path.iterdir()) == []
    path.write_text("mine")
    with pytest.raises(PrudentError, match="is there already"):
        write_reward_file(path, reward_models["plain"])
    assert path.read_text() == "mine"
