"""What is measured on held-out prompts: KL against enumeration, figures against sums by hand, advice against chance."""

import itertools
import math
import random
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("trl")

from prudent.alignment import early_stop_advice
from prudent.alignment._early_stop import best_step, why_no_advice
from prudent.alignment.rlhf import sequence_kl, token_kl
from prudent.alignment.rlhf._monitor import undisturbed
from prudent.alignment.rlhf._monitor_tables import MonitorTables
from prudent.alignment.rlhf._policy_kl import text_log_probs

VOCABULARY, END = 3, 0


class Table(nn.Module):
    """A causal model whose logits are looked up by the two tokens before."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, VOCABULARY, generator=generator))
        self.config: Any = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=VOCABULARY))

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        before = torch.cat([input_ids[:, :1], input_ids[:, :-1]], 1)
        return SimpleNamespace(logits=self.table[before, input_ids])


def completions(longest: int) -> list[tuple[int, ...]]:
    """Every completion that ends with END, or is cut at the longest."""
    found: list[tuple[int, ...]] = []
    for length in range(1, longest + 1):
        for tokens in itertools.product(range(VOCABULARY), repeat=length):
            ended = tokens[-1] == END
            if END not in tokens[:-1] and (ended or length == longest):
                found.append(tokens)
    return found


def log_probability(model: Table, prompt: Sequence[int], tokens: Sequence[int], temperature: float) -> float:
    seen, total = list(prompt), 0.0
    for token in tokens:
        logits = model.table[seen[-2] if len(seen) > 1 else seen[-1], seen[-1]].detach() / temperature
        total += float(torch.log_softmax(logits.double(), -1)[token])
        seen.append(token)
    return total


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_both_estimates_have_the_kl_of_whole_completions_for_their_mean(temperature: float) -> None:
    policy, reference = Table(0), Table(1)
    prompt, every = [1, 2], completions(4)
    ours = np.array([log_probability(policy, prompt, tokens, temperature) for tokens in every])
    theirs = np.array([log_probability(reference, prompt, tokens, temperature) for tokens in every])
    assert np.exp(ours).sum() == pytest.approx(1)
    truth = float((np.exp(ours) * (ours - theirs)).sum())
    exact, ratio = sequence_kl(
        policy, lambda: nullcontext(reference), [prompt] * len(every), every, temperature=temperature
    )
    np.testing.assert_allclose(ratio, ours - theirs, atol=1e-5)
    weight = torch.from_numpy(np.exp(ours))
    assert float((weight * exact).sum()) == pytest.approx(truth, rel=1e-5)
    assert float((weight * ratio).sum()) == pytest.approx(truth, rel=1e-5)
    spread = [float((weight * (part - truth) ** 2).sum()) for part in (exact, ratio)]
    assert spread[0] < spread[1]  # what taking each token's expectation is for
    assert bool((exact >= 0).all())


def test_kl_does_not_depend_on_the_batch() -> None:
    policy, reference = Table(0), Table(1)
    prompts, drawn = [[1], [2, 1, 2], [1, 1]], [(2, 1, 0), (0,), (1, 1, 1)]
    together = sequence_kl(policy, lambda: nullcontext(reference), prompts, drawn)
    alone = sequence_kl(policy, lambda: nullcontext(reference), prompts, drawn, tokens_per_batch=1)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)
    same, _ = sequence_kl(policy, lambda: nullcontext(policy), prompts, drawn)
    assert bool((same == 0).all())


def test_tokens_that_are_never_drawn_add_nothing() -> None:
    never = torch.tensor([[0.0, 1.0, -torch.inf]])
    exact, ratio = token_kl(never, torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([1]))
    p, q = torch.softmax(never, -1)[0], torch.softmax(torch.tensor([0.0, 1.0, 5.0]), -1)
    assert float(exact) == pytest.approx(float((p[:2] * (p[:2] / q[:2]).log()).sum()), rel=1e-5)
    assert float(ratio) == pytest.approx(math.log(float(p[1] / q[1])), rel=1e-5)


def test_log_probabilities_of_texts() -> None:
    model = Table(0)
    found = text_log_probs(model, [[1, 2, 0], [2, 1]])
    assert torch.equal(found, text_log_probs(model, [[1, 2, 0], [2, 1]], tokens_per_batch=1))
    assert found.tolist() == pytest.approx(
        [log_probability(model, [1], [2, 0], 1.0), log_probability(model, [2], [1], 1.0)], rel=1e-5
    )


def test_undisturbed_restores_modes_and_random_numbers() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002  the generator that Transformers seeds
    expected = (torch.rand(1).item(), random.random(), np.random.rand())  # noqa: NPY002
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        torch.rand(5), random.random(), np.random.rand(2)  # noqa: NPY002
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected  # noqa: NPY002
    assert [module.training for module in model.modules()] == [True, True, False]


def sample(step: int, prompt: int, number: int, **values: Any) -> dict[str, Any]:
    usual = {"prompt": str(prompt), "response": "a", "num_tokens": 3, "is_empty": False, "is_cut": False}
    return {"step": step, "prompt_id": prompt, "completion_id": number, **usual, **values}


def test_the_figures_of_a_step(tmp_path: Any) -> None:
    tables = MonitorTables(tmp_path)
    labels = {"arm": "mean", "algorithm": "rloo", "kl_coef": 0.05, "seed": 0}
    start = [
        sample(0, prompt, number, reward_mean=float(prompt + number), gold=1.0, kl=0.0, log_ratio=0.0)
        for prompt in (0, 1)
        for number in (0, 1)
    ]
    first = tables.add(start, labels)
    assert first["proxy"] == 1.0
    assert first["proxy_below_reference"] == 0.5  # of each prompt one is below the average of the two
    later = [
        sample(5, 0, 0, reward_mean=0.4, gold=3.0, kl=1.0, log_ratio=0.5, num_tokens=7, is_cut=True),
        sample(5, 0, 1, reward_mean=0.6, gold=None, kl=2.0, log_ratio=0.5, is_empty=True),
        sample(5, 1, 0, reward_mean=9.0, gold=0.0, kl=3.0, log_ratio=4.0),
        sample(5, 1, 1, reward_mean=9.0, gold=0.5, kl=6.0, log_ratio=7.0),
    ]
    row = tables.add(later, labels)
    assert row["proxy"] == pytest.approx(4.75)
    assert row["gold"] == pytest.approx(3.5 / 3)
    assert row["proxy_below_reference"] == 0.25  # references are 0.5 and 1.5
    assert row["gold_below_reference"] == pytest.approx(2 / 3)
    assert (row["length"], row["share_cut"], row["share_empty"]) == (4.0, 0.25, 0.25)
    assert row["kl"] == 3.0
    assert row["kl_standard_error"] == pytest.approx(np.std([1.5, 4.5], ddof=1) / math.sqrt(2))
    assert row["value"] is None
    assert best_step(tables.samples) == 5

    resumed = MonitorTables(tmp_path)
    resumed.resume(4)
    assert [entry["step"] for entry in resumed.rows] == [0]
    assert resumed.samples.num_rows == 4
    assert resumed.add(later, labels) == row


def run_of(gold: np.ndarray[Any, Any], proxy: np.ndarray[Any, Any]) -> pa.Table:
    """Completions, one a prompt and step, of gold and proxy [prompts, steps]."""
    rows = [
        {"step": 10 * step, "prompt_id": prompt, "gold": float(gold[prompt, step]), "reward_mean": float(proxy[step])}
        for prompt in range(len(gold))
        for step in range(gold.shape[1])
    ]
    return pa.Table.from_pylist(rows)


def test_gold_that_falls_while_the_proxy_rises_is_found() -> None:
    generator = np.random.default_rng(0)
    curve = np.array([0.0, 1.0, 1.5, 0.8, 0.0])
    gold = generator.normal(size=(24, 1)) + curve + 0.3 * generator.normal(size=(24, 5))
    advice = early_stop_advice(run_of(gold, np.arange(5.0)))
    assert advice is not None
    assert advice.stop
    assert (advice.best_step, advice.from_step) == (20, 30)
    assert advice.gold_change == pytest.approx(-1.5, abs=0.25)
    assert advice.gold_change_high < 0
    assert "take the policy of step 20" in advice.text
    falls_with_it = early_stop_advice(run_of(gold, -np.arange(5.0)))
    assert falls_with_it is not None
    assert not falls_with_it.stop


@pytest.mark.parametrize("prompts", [8, 20])
def test_chance_alone_seldom_looks_like_a_fall(prompts: int) -> None:
    """Ten steps of noise: the best of them lies well above the last, which is not a fall."""
    generator = np.random.default_rng(1)
    step, prompt = np.meshgrid(np.arange(10), np.arange(prompts))
    places = {"step": step.ravel(), "prompt_id": prompt.ravel(), "reward_mean": step.ravel().astype(float)}
    alarms = 0
    for _ in range(500):
        advice = early_stop_advice(pa.table({**places, "gold": generator.normal(size=10 * prompts)}))
        assert advice is not None
        alarms += advice.stop
    assert alarms / 500 < 0.025 + 3 * math.sqrt(0.025 * 0.975 / 500)  # one-sided 2.5 %, and chance


def test_without_gold_or_with_few_prompts_there_is_no_advice() -> None:
    curve = np.zeros((8, 3))
    assert early_stop_advice(run_of(curve[:7], np.arange(3.0))) is None
    assert early_stop_advice(run_of(np.full((8, 3), np.nan), np.arange(3.0))) is None
    assert early_stop_advice(run_of(curve[:, :1], np.arange(1.0))) is None
    assert why_no_advice(run_of(curve[:7], np.arange(3.0))) == (
        "it takes 8 held-out prompts with gold at every step, and there are 7"
    )
    assert why_no_advice(run_of(curve[:, :1], np.arange(1.0))) == (
        "it takes two looks at the held-out prompts, and there was one"
    )
    assert why_no_advice(run_of(curve, np.arange(3.0))) is None
