"""`align`: a moved policy comes out, resumable, checked beforehand, and watched without being disturbed."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("trl")

from prudent.alignment.rlhf import AlignConfig, AlignSummary, align
from prudent.alignment.rlhf import _align_trainer as trainers
from prudent.alignment.rlhf._align_folder import AlignFolder, check_reference
from prudent.alignment.rlhf._align_inputs import load_gold
from prudent.alignment.rlhf._monitor import Monitor
from prudent.alignment.rlhf._policy_kl import reference_of
from prudent.errors import DataError, ModelError, UnsupportedError
from prudent.sampling import Policy

Models = Callable[..., Path]

WORDS = ("apple", "pear", "plum", "river", "stone", "bird", "green", "red", "small", "large", "cold", "warm")
PROMPTS = [{"prompt": f"tell me about the {word}"} for word in WORDS]
CONFIG = AlignConfig(
    max_steps=4,
    prompts_per_step=2,
    num_generations=2,
    max_completion_length=6,
    num_monitor_prompts=3,
    num_monitor_completions=2,
    monitor_every=2,
    learning_rate=1e-2,
    num_references=3,
    lora_r=2,
    report_to=(),
    use_cpu=True,
)
FULL = replace(CONFIG, lora=False)


def gold(prompts: Any, responses: Any) -> list[float]:
    return [float(len(text.split())) for text in responses]


def run(policy: Path, output: Path, reward: Path, config: AlignConfig = FULL, **options: Any) -> Any:
    return align(policy, PROMPTS, output, reward_model=reward, config=config, progress=False, **options)


def weights(output: Path) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if (output / "adapter_config.json").exists() else "model.safetensors"
    return load_file(output / name)


def assert_same_run(first: Path, second: Path) -> None:
    assert pq.read_table(first / "monitor.parquet").to_pylist() == pq.read_table(second / "monitor.parquet").to_pylist()
    assert pq.read_table(first / "samples.parquet").to_pylist() == pq.read_table(second / "samples.parquet").to_pylist()
    expected, found = weights(first), weights(second)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-6)


@pytest.fixture(scope="module")
def policy(tiny_models: Models) -> Path:
    return tiny_models("llama", head=False)


@pytest.fixture(scope="module")
def whole(
    policy: Path, reward_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Any]]:
    """Uninterrupted runs: in full, and of an adapter under an arm that reads variances."""
    folder = tmp_path_factory.mktemp("whole")
    options = {"gold_model": gold}
    return {
        "full": (folder / "full", run(policy, folder / "full", reward_models["plain"], **options)),
        "lora": (
            folder / "lora",
            run(policy, folder / "lora", reward_models["helpful"], replace(CONFIG, arm="variance_kl"), **options),
        ),
    }


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_output_is_an_ordinary_policy_with_its_figures(kind: str, whole: Any, policy: Path) -> None:
    output, summary = whole[kind]
    loaded = Policy.from_pretrained(output)
    moved = dict(loaded.model.named_parameters())
    before = dict(Policy.from_pretrained(policy).model.named_parameters())
    if kind == "full":
        assert any(not torch.equal(moved[name], value) for name, value in before.items())
    else:
        assert any(value.abs().max() > 0 for name, value in moved.items() if "lora_B" in name)
        assert torch.equal(moved["base_model.model.model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    rows = pq.read_table(output / "monitor.parquet").to_pylist()
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["kl"] > 0
    assert summary.start == rows[0]
    assert summary.end == rows[-1]
    samples = pq.read_table(output / "samples.parquet").to_pylist()
    assert len(samples) == 3 * summary.num_monitor_prompts * 2
    assert not (output / "checkpoints").exists()
    assert json.loads((output / "align_result.json").read_text())["settings"] == summary.settings
    assert (summary.num_prompts, summary.num_monitor_prompts) == (10, 2)  # of 12 prompts a fifth is held out


def test_settings_of_the_checkpoint_do_not_draw_and_are_saved_as_they_were(
    policy: Path, reward_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter of tokens in the checkpoint would have training draw from another distribution than KL speaks of."""
    from transformers import GenerationMixin

    shutil.copytree(policy, tmp_path / "start")
    path = tmp_path / "start/generation_config.json"
    settings = {"min_p": 0.3, "no_repeat_ngram_size": 2, "do_sample": True, "temperature": 0.3, "typical_p": 0.5}
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    used: set[str] = set()
    given = GenerationMixin._get_logits_processor

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = given(self, *args, **kwargs)
        used.update(type(one).__name__ for one in found)
        return found

    monkeypatch.setattr(GenerationMixin, "_get_logits_processor", noted)
    config = replace(FULL, max_steps=1, temperature=0.9)
    run(tmp_path / "start", tmp_path / "out", reward_models["plain"], config)
    assert used == {"TokenDraws", "TemperatureLogitsWarper"}
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((tmp_path / folder / name).read_text()) for folder in ("start", "out"))
        assert {**after, "transformers_version": None} == {**before, "transformers_version": None}


def test_a_finished_run_only_reports_and_another_is_refused(
    whole: Any, policy: Path, reward_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, summary = whole["full"]
    monkeypatch.setattr(trainers, "make_trainer", None)
    again = run(policy, output, reward_models["plain"], gold_model=gold)
    assert again.already_finished
    assert again.end == summary.end
    with pytest.raises(ModelError, match=r"under another version of prudent \(its result has no arm\)"):
        AlignSummary.from_dict({name: value for name, value in summary.to_dict().items() if name != "arm"})
    with pytest.raises(ModelError, match=r"other settings.*kl_coef was 0.05, is 0.1"):
        run(policy, output, reward_models["plain"], replace(FULL, kl_coef=0.1), gold_model=gold)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_interrupted_it_resumes_and_gives_the_same_curve_and_weights(
    kind: str,
    whole: Any,
    policy: Path,
    reward_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, reward = (
        (FULL, reward_models["plain"])
        if kind == "full"
        else (replace(CONFIG, arm="variance_kl"), reward_models["helpful"])
    )
    on_step_end = trainers.ProgressCallback.on_step_end

    def interrupt(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_step_end(self, args, state, control, **kwargs)
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainers.ProgressCallback, "on_step_end", interrupt)
        with pytest.raises(KeyboardInterrupt, match="start it again in the same way to resume"):
            run(policy, tmp_path / "out", reward, config, gold_model=gold)
    assert (tmp_path / "out/checkpoints/checkpoint-2/complete.json").exists()
    resumed = run(policy, tmp_path / "out", reward, config, gold_model=gold)
    assert resumed.resumed_from_step == 2
    assert_same_run(whole[kind][0], tmp_path / "out")


def test_killed_while_finishing_it_needs_no_further_step(
    whole: Any, policy: Path, reward_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prudent.alignment.rlhf import _align

    def die(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(_align, "align_card", die)
        with pytest.raises(RuntimeError, match="killed"):
            run(policy, tmp_path / "out", reward_models["plain"], gold_model=gold)
    summary = run(policy, tmp_path / "out", reward_models["plain"], gold_model=gold)
    assert (summary.resumed_from_step, summary.num_steps) == (4, 4)
    assert_same_run(whole["full"][0], tmp_path / "out")


def test_passes_over_few_prompts_resume_in_the_same_order(
    policy: Path, reward_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four prompts, two a step: the second pass begins at step 3, and its order must not be that of the first."""
    few = [{"prompt": f"name {word}"} for word in WORDS[:4]]
    config = replace(FULL, max_steps=6, monitor_every=5, num_monitor_completions=1)

    def start(output: Path) -> None:
        align(
            policy,
            few,
            output,
            reward_model=reward_models["plain"],
            monitor_prompts=PROMPTS,
            config=config,
            progress=False,
        )

    start(tmp_path / "whole")
    on_step_end = trainers.ProgressCallback.on_step_end

    def interrupt(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_step_end(self, args, state, control, **kwargs)
        if state.global_step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainers.ProgressCallback, "on_step_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut")
    start(tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_watching_changes_nothing(whole: Any, policy: Path, reward_models: dict[str, Path], tmp_path: Path) -> None:
    often = replace(FULL, monitor_every=1, num_monitor_completions=3)
    run(policy, tmp_path / "often", reward_models["plain"], often)
    for name, value in weights(whole["full"][0]).items():
        assert torch.equal(weights(tmp_path / "often")[name], value)


def test_the_policy_to_take_is_kept_and_a_run_can_be_made_anew(
    policy: Path, reward_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gold that falls after step 2 while the proxy rises: eight held-out prompts are enough to say so."""
    from trl import RLOOTrainer

    given = Monitor.look

    def falling(self: Any, held: Any, reference: Any, step: int) -> Any:
        self._gold = lambda prompts, responses: [{0: 1.0, 2: 3.0, 4: 0.0, 6: 0.0}[step] for _ in responses]
        measure = self._reward.measure
        monkeypatch.setattr(self._reward, "measure", lambda *texts: rising(measure(*texts), step))
        return given(self, held, reference, step)

    def rising(measured: Any, step: int) -> Any:
        return replace(measured, components={"reward": measured.mean * 0 + step})

    config = replace(FULL, max_steps=6, num_monitor_prompts=8, num_monitor_completions=1)
    more = [{"prompt": f"name the {word} house"} for word in WORDS[:8]]
    options = {"gold_model": gold, "monitor_prompts": more}
    logged: list[set[str]] = []
    monkeypatch.setattr(RLOOTrainer, "log", lambda self, figures, *rest: logged.append(set(figures)))
    monkeypatch.setattr(Monitor, "look", falling)
    with pytest.warns(UserWarning, match=r"at step 4 gold falls .*Training goes on"):
        summary = run(policy, tmp_path / "out", reward_models["plain"], config, **options)
    monkeypatch.setattr(Monitor, "look", given)
    assert any({"eval_monitor/gold", "eval_monitor/gold_change_high"} <= names for names in logged)
    assert summary.advice is not None
    assert (summary.advice.stop, summary.advice.best_step, summary.advice.from_step) == (True, 2, 4)
    assert summary.best_checkpoint == str(tmp_path / "out/checkpoints/checkpoint-2")
    kept = Policy.from_pretrained(summary.best_checkpoint)
    names = {path.name for path in (tmp_path / "out/checkpoints/checkpoint-2").iterdir()}
    assert names <= {path.name for path in (tmp_path / "out").iterdir()}  # nothing to resume from
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "out/checkpoints/checkpoint-2" / name).read_text() == (tmp_path / "out" / name).read_text()
    assert not torch.equal(kept.model.lm_head.weight, Policy.from_pretrained(tmp_path / "out").model.lm_head.weight)
    again = replace(FULL, max_steps=1)
    assert run(policy, tmp_path / "out", reward_models["plain"], again, overwrite=True).num_steps == 1
    assert not (tmp_path / "out/checkpoints").exists()


def test_references_are_sampled_first_and_serve_both_sets(
    policy: Path, reward_models: dict[str, Path], tmp_path: Path
) -> None:
    config = replace(CONFIG, arm="lsc", max_steps=2)
    summary = run(policy, tmp_path / "out", reward_models["helpful"], config)
    pool = pq.read_table(tmp_path / "out/references/pool.parquet")
    assert pool.num_rows == len(PROMPTS)
    assert {len(texts) for texts in pool["responses"].to_pylist()} == {3}
    assert summary.start["value"] < 0  # a logarithm of a probability
    assert summary.num_without_references == 0
    # the scored responses of one run serve another
    scored = tmp_path / "out/references/scored.parquet"
    other = run(policy, tmp_path / "other", reward_models["helpful"], config, references=scored)
    assert not (tmp_path / "other/references/pool.parquet").exists()
    assert other.end["value"] == summary.end["value"]
    assert pq.read_table(tmp_path / "other/monitor.parquet")["utility"][0].as_py() == summary.utility
    # they are known by what they hold, and so is a utility
    again = {"references": shutil.copytree(scored, tmp_path / "moved.parquet")}
    assert run(policy, tmp_path / "other", reward_models["helpful"], config, **again).already_finished
    table = pq.read_table(scored)
    again = {"references": tmp_path / "other.parquet"}
    pq.write_table(table.slice(0, table.num_rows - 1), again["references"])
    with pytest.raises(ModelError, match=r"other settings.*references was"):
        run(policy, tmp_path / "other", reward_models["helpful"], config, **again)
    others = table.set_column(table.column_names.index("prompt"), "prompt", table["response"])
    pq.write_table(others, again["references"])
    with pytest.raises(DataError, match="references of none of the 10 prompts"):
        run(policy, tmp_path / "none", reward_models["helpful"], config, **again)
    assert not (tmp_path / "none").exists()
    saved = replace(CONFIG, max_steps=1, utility=str(tmp_path / "out/references/utility"))
    assert run(policy, tmp_path / "saved", reward_models["helpful"], saved).start["value"] == summary.start["value"]
    shutil.copytree(saved.utility, tmp_path / "moved")
    saved = replace(saved, utility=str(tmp_path / "moved"))
    assert run(policy, tmp_path / "saved", reward_models["helpful"], saved).already_finished
    # an arm that reads features as well
    signed = replace(CONFIG, arm="signcert", utility="center | log_sigmoid", max_steps=1)
    found = run(policy, tmp_path / "signed", reward_models["helpful"], signed, references=scored)
    assert found.start["value"] == summary.start["value"]
    # those of some prompts serve these, which is said before it starts
    some = pq.read_table(scored)
    pq.write_table(some.filter(pc.less(some["prompt_id"], 5)), tmp_path / "some.parquet")
    short = replace(config, max_steps=1)
    with pytest.warns(UserWarning, match=r"some.parquet has no references of 5 of the 10 prompts to train on"):
        part = run(policy, tmp_path / "part", reward_models["helpful"], short, references=tmp_path / "some.parquet")
    assert part.num_without_references == 5


def test_grpo_and_an_adapter_that_is_trained_on(whole: Any, reward_models: dict[str, Path], tmp_path: Path) -> None:
    start = whole["lora"][0]
    summary = run(start, tmp_path / "out", reward_models["helpful"], replace(CONFIG, algorithm="grpo", max_steps=2))
    assert summary.start["kl"] == pytest.approx(0, abs=1e-6)  # to the adapter as it was, not to the base
    assert summary.end["kl"] > 0
    assert Policy.from_pretrained(tmp_path / "out").complete
    assert not (tmp_path / "out/ref").exists()


def test_without_a_penalty_the_distance_is_measured_all_the_same(
    policy: Path, reward_models: dict[str, Path], tmp_path: Path
) -> None:
    """Under autocast too, where a reference in another precision would lie apart from the very same weights."""
    config = replace(FULL, kl_coef=0.0, max_steps=2, bf16=True)
    summary = run(policy, tmp_path / "out", reward_models["plain"], config)
    assert (summary.start["kl"], summary.start["log_ratio"]) == (0, 0)
    assert summary.end["kl"] > 0


def test_under_autocast_the_reference_of_an_adapter_does_not_drift(
    policy: Path, reward_models: dict[str, Path], tmp_path: Path
) -> None:
    summary = run(policy, tmp_path / "out", reward_models["plain"], replace(CONFIG, max_steps=2, bf16=True))
    assert summary.start["kl"] == pytest.approx(0, abs=1e-6)
    assert summary.end["kl"] > 0


@pytest.mark.parametrize(
    ("changes", "options", "error", "message"),
    [
        ({"arm": "lcb"}, {}, DataError, "no posterior, which lcb_std"),
        ({"arm": "variance_kl"}, {}, DataError, "no posterior, which the arm variance_kl needs"),
        ({"arm": "worst"}, {}, DataError, "needs an ensemble"),
        ({"max_completion_length": 1000}, {}, DataError, r"lower max_completion_length \(--max-completion-length\)"),
        ({"report_to": ("nothing",)}, {}, UnsupportedError, "unknown or not installed"),
        ({}, {"monitor_prompts": PROMPTS[:2]}, DataError, "2 of the 2 held-out prompts are trained on too"),
        ({}, {"gold_model": "/nowhere"}, ModelError, "gold model /nowhere"),
        ({"arm": "lsc"}, {"references": "/nowhere.parquet"}, DataError, "there is no /nowhere.parquet"),
        ({}, {"references": __file__}, DataError, "the utility mean compares with nothing: leave them out"),
        ({"arm": "lsc"}, {"references": __file__}, DataError, "not readable as Parquet"),
        (
            {"utility": "weighted(a, b, weights=[1, 1])"},
            {"reward_model": ("a", "other")},
            DataError,
            "no model for the reward 'b'",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    changes: dict[str, Any],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    policy: Path,
    reward_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    names = options.get("reward_model")
    reward = reward_models["plain"] if names is None else dict.fromkeys(names, reward_models["plain"])
    options = {name: value for name, value in options.items() if name != "reward_model"}
    with pytest.raises(error, match=message):
        align(
            policy,
            PROMPTS,
            tmp_path / "out",
            reward_model=reward,
            config=replace(FULL, **changes),
            progress=False,
            **options,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 1}, "num_generations is 1; it must be at least 2"),
        (
            {"prompts_per_step": 2, "num_generations": 3, "per_device_train_batch_size": 4},
            r"per_device_train_batch_size is 4; it must be a divisor of the 6 .* prompts_per_step \(2\) x num_gen",
        ),
        ({"arm": "best"}, "no arm 'best'"),
        ({"arm": "variance_kl", "kl_coef": 0.0}, "kl_coef is 0.0; it must be positive"),
        ({"arm": "variance_kl_in_reward", "algorithm": "grpo"}, "needs algorithm rloo"),
        ({"monitor_every": 1.5}, "a whole number of steps, or a share below 1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"arm": "lcb", "utility": "mean"}, r"utility is mean; it must be left out: the arm lcb is lcb_std\(1\)"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_a_single_step_trains(policy: Path, reward_models: dict[str, Path], tmp_path: Path) -> None:
    """A warm-up of a tenth, rounded up, would leave it a rate of 0."""
    assert run(policy, tmp_path / "out", reward_models["plain"], replace(FULL, max_steps=1)).end["kl"] > 0


@pytest.mark.parametrize("every", [1, 4])
def test_training_that_diverges_says_so(
    every: int, policy: Path, reward_models: dict[str, Path], tmp_path: Path
) -> None:
    config = replace(FULL, learning_rate=1e30, monitor_every=every, max_grad_norm=1e9)
    with pytest.raises(ModelError, match="training diverged; lower learning_rate"):
        run(policy, tmp_path / "out", reward_models["plain"], config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "gave 1 values for 4 responses; it must give one each"),
        ([1.0] * 9, "gave 9 values for 4 responses"),
        ([1.0, math.nan, -math.inf, 1.0], "gave -inf for the response .*must give NaN"),
    ],
)
def test_gold_must_be_a_number_for_each_response(
    values: list[float], message: str, policy: Path, reward_models: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        run(policy, tmp_path / "out", reward_models["plain"], gold_model=lambda prompts, texts: values)


def test_a_gold_function_is_known_by_its_name() -> None:
    assert load_gold(gold, None) == (gold, f"{__name__}.gold")
    with pytest.warns(UserWarning, match=r"has no name of its own.*define it with def"):
        load_gold(lambda prompts, responses: [0.0], None)


def test_half_written_files_are_swept_away(tmp_path: Path) -> None:
    folder = AlignFolder(tmp_path)
    folder.start({}, writes=True)
    (tmp_path / ".monitor.parquet.123.tmp").touch()
    folder.start({}, writes=True)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    (tmp_path / ".reference.json.123.tmp").touch()
    folder.clear()
    assert not list(tmp_path.iterdir())


def test_an_output_of_something_else_is_left_alone(
    policy: Path, reward_models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match=r"files of something else \(thesis.tex\)"):
        run(policy, tmp_path, reward_models["plain"], overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_policy_without_an_end_is_refused(policy: Path, reward_models: dict[str, Path], tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    shutil.copytree(policy, endless)
    described = json.loads((endless / "tokenizer_config.json").read_text())
    described.pop("eos_token")
    (endless / "tokenizer_config.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="no token that ends a text"):
        run(endless, tmp_path / "out", reward_models["plain"])


def test_a_loss_that_is_no_number_stops_the_run(
    policy: Path, reward_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import RLOOTrainer

    monkeypatch.setattr(RLOOTrainer, "training_step", lambda *args, **kwargs: torch.tensor(torch.nan))
    with pytest.raises(ModelError, match=r"the loss is nan at step 1.*learning_rate.*kl_coef"):
        run(policy, tmp_path / "out", reward_models["plain"])


def exhausted(*args: Any, **kwargs: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("trl.RLOOTrainer.training_step", "lower per_device_train_batch_size.*prompts_per_step.*anew with overwrite"),
        ("prudent.sampling.Policy.complete", "lower tokens_per_batch .*start again to resume"),
        ("torch.optim.AdamW.step", "train adapters.*anew with overwrite"),
        ("prudent.alignment.rlhf._align_folder.text_log_probs", "lower tokens_per_batch"),
        ("prudent.alignment.rlhf._align.make_trainer", "train adapters"),
        ("prudent.alignment.rlhf._align.load_policy", "train adapters"),
    ],
)
def test_out_of_memory_says_what_to_do(
    place: str,
    advice: str,
    policy: Path,
    reward_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(place, exhausted)
    with pytest.raises(ModelError, match=f"out of memory.*{advice}"):
        run(policy, tmp_path / "out", reward_models["plain"])


def test_what_is_advised_where_memory_runs_out_resumes(
    policy: Path, reward_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import RLOOTrainer

    step = RLOOTrainer.training_step

    def third(self: Any, *args: Any, **kwargs: Any) -> Any:
        return exhausted() if self.state.global_step == 2 else step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(RLOOTrainer, "training_step", third)
        with pytest.raises(ModelError, match="lower per_device_train_batch_size"):
            run(policy, tmp_path / "out", reward_models["plain"])
    less = replace(
        FULL, per_device_train_batch_size=2, gradient_checkpointing=True, tokens_per_batch=64, num_monitor_completions=1
    )
    assert run(policy, tmp_path / "out", reward_models["plain"], less).resumed_from_step == 2
    other = replace(FULL, num_generations=4)
    with pytest.raises(ModelError, match=r"num_generations was 2, is 4.*discard that run with overwrite"):
        run(policy, tmp_path / "out", reward_models["plain"], other)
    other = replace(other, max_steps=1)
    assert run(policy, tmp_path / "out", reward_models["plain"], other, overwrite=True).num_steps == 1


def test_a_reference_that_drifts_is_an_error(policy: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    loaded = Policy.from_pretrained(policy)
    model: Any = get_peft_model(loaded.model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    reference, texts = reference_of(model, None), loaded.encode(["tell me about the river", "name a fruit"])
    noted = tmp_path / "reference.json"
    check_reference(noted, reference, texts, at_start=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3)
    check_reference(noted, reference, texts, at_start=False)  # the adapter is what may move
    with torch.no_grad():
        model.base_model.model.model.embed_tokens.weight.add_(0.05)
    with pytest.raises(ModelError, match="the reference policy has changed during training"):
        check_reference(noted, reference, texts, at_start=False)


def test_templates_that_differ_are_told(policy: Path, reward_models: dict[str, Path], tmp_path: Path) -> None:
    templated = tmp_path / "templated"
    shutil.copytree(policy, templated)
    (templated / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    with pytest.warns(UserWarning, match="template"):
        run(templated, tmp_path / "out", reward_models["plain"], replace(CONFIG, max_steps=1))


@pytest.mark.slow
def test_two_processes_make_one_run(policy: Path, reward_models: dict[str, Path], tmp_path: Path) -> None:
    """References sampled once, one that watches, and weights that both have."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    options = {
        "policy": policy,
        "data": tmp_path / "prompts.jsonl",
        "reward-model": reward_models["plain"],
        "output": tmp_path / "out",
        "arm": "lsc",
        "num-references": 3,
        "max-steps": 2,
        "prompts-per-step": 2,
        "num-generations": 2,
        "max-completion-length": 6,
        "monitor-every": 1,
        "report-to": "none",
    }
    given = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "prudent"]
    done = subprocess.run(
        [*launch, "align", *given, "--use-cpu", "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    summary = json.loads(done.stdout)
    assert (summary["num_steps"], summary["start"]["kl"]) == (2, pytest.approx(0, abs=1e-6))
    assert [row["step"] for row in pq.read_table(tmp_path / "out/monitor.parquet").to_pylist()] == [0, 1, 2]
    assert Policy.from_pretrained(tmp_path / "out").complete
