"""`sample_pool`: files that everything else reads, resumed where they were cut off, and refusals before any work."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from prudent import load_pools, read_scored, score
from prudent.errors import DataError, ModelError, PrudentError
from prudent.models import RewardModel
from prudent.posteriors import fit
from prudent.sampling import Policy, _sample, sample_pool

PROMPTS = [
    {"prompt": "name a fruit", "id": "f", "subset": "short"},
    {"prompt": [{"role": "user", "content": "tell me about the weather today please"}], "subset": "long"},
    {"prompt": "the small bird", "subset": "short"},
    {"prompt": "name a fruit ", "subset": "again"},
    {"prompt": "a large house opens slowly and the door closes quickly", "subset": "long"},
]
OPTIONS = {"num_candidates": 5, "max_new_tokens": 8, "progress": False}


@pytest.fixture(scope="module")
def policy(tiny_models):
    return Policy.from_pretrained(tiny_models("llama", head=False))


@pytest.fixture(scope="module")
def gold_model(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gold") / "rm"
    pairs = [{"prompt": "name a fruit", "chosen": f"the apple {'and pear ' * n}", "rejected": "no"} for n in range(6)]
    fit(tiny_models("llama"), pairs, folder, progress=False)
    return folder


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_pool_is_what_the_rest_reads(policy, gold_model, tmp_path, suffix):
    output = tmp_path / f"pool{suffix}"
    summary = sample_pool(policy, PROMPTS, output, gold_model=gold_model, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert (summary.num_prompts, summary.num_responses, summary.num_skipped) == (4, 20, 0)
    pools = load_pools(output)
    assert [row["prompt"][0]["content"] for row in pools] == [
        row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][0]["content"]
        for row in (PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[4])
    ]
    assert [row["subset"] for row in pools] == ["short", "long", "short", "long"]
    assert [row["id"] for row in pools] == ["f", None, None, None]
    rewards = RewardModel.from_pretrained(gold_model)
    for row in pools:
        assert len(row["responses"]) == len(row["gold"]) == 5
        assert row["gold"] == pytest.approx(rewards.rewards([row["prompt"]] * 5, row["responses"]).tolist(), abs=1e-4)
        for reason, tokens in zip(row["finish_reason"], row["completion_tokens"], strict=True):
            assert tokens == 8 if reason == "length" else reason == "stop"
    assert summary.mean_gold == pytest.approx(sum(sum(row["gold"]) for row in pools) / 20)
    assert summary.num_cut == sum(row["finish_reason"].count("length") for row in pools)
    score(gold_model, output, tmp_path / "scored", progress=False)
    table = read_scored(tmp_path / "scored").table
    assert table["gold"].to_pylist() == pytest.approx(table["reward_mean"].to_pylist(), abs=1e-4)
    assert set(table["finish_reason"].to_pylist()) <= {"stop", "length"}


def test_both_formats_hold_the_same(policy, tmp_path):
    sample_pool(policy, PROMPTS, tmp_path / "a.parquet", **OPTIONS)
    sample_pool(policy, PROMPTS, tmp_path / "a.jsonl", **OPTIONS)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == lines
    sampling = lines[0]["sampling"]
    assert sampling["policy"] == policy.name
    assert (sampling["num_candidates"], sampling["temperature"], sampling["chat_template"]) == (5, 1.0, False)


def responses(path):
    return {row["prompt"][0]["content"]: row["responses"] for row in load_pools(path)}


def test_responses_depend_on_prompt_number_and_seed_alone(policy, tmp_path):
    def drawn(name, data=PROMPTS, **options):
        sample_pool(policy, data, tmp_path / f"{name}.parquet", **{**OPTIONS, **options})
        return responses(tmp_path / f"{name}.parquet")

    usual = drawn("usual")
    assert drawn("alone", tokens_per_batch=1) == usual
    assert drawn("backwards", PROMPTS[2::-1] + PROMPTS[4:]) == usual
    more = drawn("more", num_candidates=7)
    assert {prompt: texts[:5] for prompt, texts in more.items()} == usual
    few = drawn("few", num_prompts=2)
    assert list(few.items()) == list(usual.items())[:2]
    assert drawn("other", seed=1) != usual


def test_prompts_come_from_preferences_and_pools(policy, tmp_path):
    pairs = [
        {"prompt": "name a fruit", "chosen": "yes", "rejected": "no"},
        {"prompt": "name a fruit", "chosen": "apple", "rejected": "no"},
        {"chosen": "the bird sings", "rejected": "the bird flies"},
    ]
    summary = sample_pool(policy, pairs, tmp_path / "pairs.jsonl", **OPTIONS)
    assert list(responses(tmp_path / "pairs.jsonl")) == ["name a fruit", "the bird"]
    assert summary.num_responses == 10
    again = sample_pool(policy, tmp_path / "pairs.jsonl", tmp_path / "again.jsonl", **OPTIONS)
    assert again.num_prompts == 2
    assert responses(tmp_path / "again.jsonl") == responses(tmp_path / "pairs.jsonl")


def test_a_finished_pool_is_reported_and_not_replaced(policy, gold_model, tmp_path, monkeypatch):
    output = tmp_path / "pool.parquet"
    first = sample_pool(policy, PROMPTS, output, **OPTIONS)
    told = "made with another num_candidates, seed; give another output, or say overwrite"
    with pytest.raises(PrudentError, match=told):
        sample_pool(policy, PROMPTS, output, **{**OPTIONS, "num_candidates": 4, "seed": 3})
    with pytest.raises(PrudentError, match="another prompts"):
        sample_pool(policy, PROMPTS[:2], output, **OPTIONS)
    with pytest.raises(PrudentError, match=r"was sampled without a gold model \(--gold-model\), and gold is not added"):
        sample_pool(policy, PROMPTS, output, gold_model=gold_model, **OPTIONS)
    old = output.read_bytes()
    monkeypatch.setattr(Policy, "complete", None)
    assert sample_pool(policy, PROMPTS, output, **OPTIONS) == first
    assert output.read_bytes() == old
    monkeypatch.undo()
    assert sample_pool(policy, PROMPTS[:1], output, overwrite=True, **OPTIONS).num_prompts == 1
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a"}\n')
    for overwrite in (False, True):
        with pytest.raises(PrudentError, match="was not written by sampling"):
            sample_pool(policy, PROMPTS, tmp_path / "mine.jsonl", overwrite=overwrite, **OPTIONS)


def test_an_interrupted_run_goes_on_where_it_was(policy, gold_model, tmp_path, monkeypatch):
    monkeypatch.setattr(_sample, "_BATCHES_PER_PART", 3)
    options = {**OPTIONS, "tokens_per_batch": 30, "gold_model": gold_model}
    sample_pool(policy, PROMPTS, tmp_path / "whole.jsonl", **options)
    original, calls = Policy.complete, []

    def interrupted(self, *args, **kwargs):
        if len(calls) == 11:
            raise KeyboardInterrupt
        calls.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Policy, "complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample_pool(policy, PROMPTS, tmp_path / "cut.jsonl", **options)
    partial = tmp_path / "cut.jsonl.partial"
    parts = sorted((partial / "responses.partial").glob("part-*"))
    assert 1 < len(parts) < 7
    assert not (tmp_path / "cut.jsonl").exists()
    with pytest.raises(PrudentError, match="another temperature"):
        sample_pool(policy, PROMPTS, tmp_path / "cut.jsonl", **options, temperature=0.5)
    calls[:] = []
    # Another size of batches may go on with it.
    sample_pool(policy, PROMPTS, tmp_path / "cut.jsonl", **{**options, "tokens_per_batch": 60})
    assert len(calls) < 7
    assert not partial.exists()
    assert responses(tmp_path / "cut.jsonl") == responses(tmp_path / "whole.jsonl")


def test_a_run_cut_off_while_gold_is_scored_keeps_its_responses(policy, gold_model, tmp_path, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(_sample, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        sample_pool(policy, PROMPTS, tmp_path / "pool.jsonl", gold_model=gold_model, **OPTIONS)
    monkeypatch.undo()
    monkeypatch.setattr(Policy, "complete", None)
    assert sample_pool(policy, PROMPTS, tmp_path / "pool.jsonl", gold_model=gold_model, **OPTIONS).mean_gold is not None


def test_what_a_run_left_that_was_killed_last_is_removed(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(_sample.shutil, "rmtree", None)
    with pytest.raises(TypeError):
        sample_pool(policy, PROMPTS, tmp_path / "pool.jsonl", **OPTIONS)
    monkeypatch.undo()
    left = tmp_path / "pool.jsonl.partial"
    assert (tmp_path / "pool.jsonl").exists()
    sample_pool(policy, PROMPTS, tmp_path / "pool.jsonl", **OPTIONS)
    assert not left.exists()
    # a run under way that will replace the pool by another is not touched
    monkeypatch.setattr(_sample, "write_pool", None)
    with pytest.raises(TypeError):
        sample_pool(policy, PROMPTS, tmp_path / "pool.jsonl", overwrite=True, seed=1, **OPTIONS)
    sample_pool(policy, PROMPTS, tmp_path / "pool.jsonl", **OPTIONS)
    assert left.exists()


def test_overwriting_discards_an_unfinished_run_with_other_settings(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(_sample, "write_pool", None)
    with pytest.raises(TypeError):
        sample_pool(policy, PROMPTS, tmp_path / "pool.jsonl", **OPTIONS)
    monkeypatch.undo()
    sample_pool(policy, PROMPTS, tmp_path / "pool.jsonl", overwrite=True, seed=1, **OPTIONS)
    sample_pool(policy, PROMPTS, tmp_path / "straight.jsonl", seed=1, **OPTIONS)
    assert responses(tmp_path / "pool.jsonl") == responses(tmp_path / "straight.jsonl")


@pytest.mark.slow
def test_a_killed_run_gives_the_same_pool(tiny_models, tmp_path):
    """A process killed by force, half-way."""
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    folder = tiny_models("llama", head=False)
    options = {"num_candidates": 90, "max_new_tokens": 16, "tokens_per_batch": 200, "progress": False}
    program = textwrap.dedent(f"""
        from prudent.sampling import sample_pool
        sample_pool({str(folder)!r}, {str(data)!r}, {str(tmp_path / "pool.parquet")!r}, **{options!r})
    """)
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"})
    unfinished = tmp_path / "pool.parquet.partial" / "responses.partial"
    deadline = time.monotonic() + 120
    while len(list(unfinished.glob("part-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "pool.parquet").exists()
    assert len(list(unfinished.glob("part-*"))) >= 2
    sample_pool(folder, data, tmp_path / "pool.parquet", **options)
    sample_pool(folder, data, tmp_path / "straight.parquet", **options)
    assert pq.read_table(tmp_path / "pool.parquet").equals(pq.read_table(tmp_path / "straight.parquet"))


def test_empty_responses_are_kept_and_counted(tiny_models, tmp_path):
    policy = Policy.from_pretrained(tiny_models("llama", head=False))
    policy.model.generation_config.eos_token_id = list(range(0, len(policy.tokenizer), 2))
    policy = Policy(policy.model, policy.tokenizer)
    summary = sample_pool(policy, PROMPTS, tmp_path / "pool.jsonl", **{**OPTIONS, "num_candidates": 40})
    texts = [text for row in load_pools(tmp_path / "pool.jsonl") for text in row["responses"]]
    assert summary.num_empty == sum(not text.strip() for text in texts) > 20
    assert summary.num_repeated >= summary.num_empty - 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 0}, "num_candidates is 0; it must be at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_prompts": 0}, "num_prompts is 0"),
        ({"tokens_per_batch": 0}, "tokens_per_batch is 0"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        sample_pool("nowhere", PROMPTS, "pool.jsonl", **options)


def test_bad_input_is_told_before_any_work(policy, tiny_models, tmp_path, monkeypatch):
    monkeypatch.setattr(Policy, "complete", None)
    output = tmp_path / "pool.jsonl"
    (tmp_path / "a.csv").write_text("text\nhello\n")
    (tmp_path / "dir.jsonl").mkdir()
    with pytest.raises(DataError, match="no column prompt; there are text"):
        sample_pool(policy, tmp_path / "a.csv", output)
    with pytest.raises(DataError, match="row 1: `prompt` is missing or null"):
        sample_pool(policy, [{"prompt": "a"}, {"text": "b"}], output)
    with pytest.raises(DataError, match="there is no such file"):
        sample_pool(policy, tmp_path / "nowhere.jsonl", output)
    with pytest.raises(PrudentError, match=r"written as .parquet or .jsonl"):
        sample_pool(policy, PROMPTS, tmp_path / "pool.csv")
    with pytest.raises(PrudentError, match="is a folder"):
        sample_pool(policy, PROMPTS, tmp_path / "dir.jsonl")
    with pytest.raises(ModelError, match=r"gold model .* head was never trained"):
        sample_pool(policy, PROMPTS, output, gold_model=tiny_models("llama", head=False))
    picky = AutoTokenizer.from_pretrained(tiny_models("llama", head=False))
    picky.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}go"
    told = [{"prompt": "a"}, {"prompt": [{"role": "system", "content": "b"}, {"role": "user", "content": "c"}]}]
    with pytest.raises(DataError, match="row 1: the chat template refuses a conversation with roles system, user"):
        sample_pool(Policy(policy.model, picky), told, output)
    long = [{"prompt": "a"}, {"prompt": "bird " * 125}, {"prompt": "the"}]
    with pytest.raises(DataError, match=r"1 of 3 prompts and 8 new tokens .* the 128 tokens .*: row 1 \(125 tokens\)"):
        sample_pool(policy, long, output, **OPTIONS)
    encode = Policy.encode
    monkeypatch.setattr(Policy, "encode", lambda self, prompts: [[], *encode(self, prompts)[1:]][::-1])
    with pytest.raises(DataError, match="the prompt of row 1 is no token to the policy's tokenizer"):
        sample_pool(policy, PROMPTS[:2], output, **OPTIONS)
    monkeypatch.setattr(Policy, "encode", encode)
    with pytest.raises(DataError, match="2 of 2 prompts and 128 new tokens"):
        sample_pool(policy, long[::2], output, max_new_tokens=128, skip_bad=True)
    assert not output.exists()
    assert not (tmp_path / "pool.jsonl.partial").exists()
    monkeypatch.undo()
    summary = sample_pool(policy, [*long, {"text": "b"}], output, skip_bad=True, **OPTIONS)
    assert (summary.num_prompts, summary.num_skipped) == (2, 2)


def test_a_real_language_model_writes_stories(shared_data, tmp_path):
    """Words of stories for children, whichever way the prompt is read; the same texts in other batches."""
    folder = shared_data / "tiny_lm_stories260K"
    data = [{"prompt": "Once upon a time"}, {"prompt": "Lily and Tom went to the park. They saw a big"}]
    options = {"num_candidates": 8, "max_new_tokens": 40, "chat_template": False, "progress": False}
    summary = sample_pool(folder, data, tmp_path / "a.parquet", **options)
    assert (summary.num_responses, summary.num_repeated, summary.chat_template) == (16, 0, False)
    texts = [text for texts in responses(tmp_path / "a.parquet").values() for text in texts]
    assert sum(" the " in text or " a " in text for text in texts) >= 14
    sample_pool(folder, data, tmp_path / "b.parquet", tokens_per_batch=200, **options)
    assert responses(tmp_path / "b.parquet") == responses(tmp_path / "a.parquet")
    sharp = sample_pool(folder, data, tmp_path / "c.parquet", temperature=0.01, **options)
    assert sharp.num_repeated >= 10
    templated = sample_pool(folder, data, tmp_path / "d.parquet", num_candidates=1, max_new_tokens=4, progress=False)
    assert templated.chat_template
