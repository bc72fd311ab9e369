import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EvalPrediction

from prudent.data import load_preferences
from prudent.errors import DataError, ModelError
from prudent.models import RewardModel
from prudent.training import TrainingConfig, train
from prudent.training._trainer import preference_metrics

Pairs = list[dict[str, Any]]
QUICK = TrainingConfig(max_steps=4, learning_rate=1e-2, per_device_train_batch_size=4)
LONG = TrainingConfig(num_train_epochs=4, learning_rate=1e-2, per_device_train_batch_size=4)


def rewards(folder: Path, pairs: Pairs) -> torch.Tensor:
    model = RewardModel.from_pretrained(folder)
    return model.rewards([pair["prompt"] for pair in pairs], [pair["chosen"] for pair in pairs])


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_learns_a_rule_from_a_base_model(
    kind: str,
    lora: bool,
    tiny_models: Callable[..., Path],
    pairs: Pairs,
    eval_pairs: Pairs,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = TrainingConfig(num_train_epochs=6, learning_rate=1e-2, per_device_train_batch_size=4, lora=lora)
    result = train(tiny_models(kind, head=False), pairs, tmp_path / "rm", eval_data=eval_pairs, config=config)
    assert result.accuracy is not None
    assert result.accuracy >= 0.9
    assert result.nll is not None
    assert result.nll < 0.4
    assert (result.num_steps, result.num_epochs, result.num_pairs, result.num_eval_pairs) == (72, 6, 48, 16)
    assert result.num_truncated == result.num_prompt_truncated == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "Training" in err
    assert "pairs/s" in err
    model = RewardModel.from_pretrained(tmp_path / "rm")
    assert not model.head_is_new
    scores = [
        model.rewards([pair["prompt"] for pair in eval_pairs], [pair[side] for pair in eval_pairs])
        for side in ("chosen", "rejected")
    ]
    assert (scores[0] > scores[1]).double().mean().item() == pytest.approx(result.accuracy)
    nll = -torch.nn.functional.logsigmoid((scores[0] - scores[1]).double()).mean().item()
    assert nll == pytest.approx(result.nll, abs=1e-5)


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "bert", "roberta"])
def test_output_loads_without_prudent_and_gives_the_same_mean(
    kind: str, lora: bool, tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    base, output = tiny_models(kind, head=False), tmp_path / "rm"
    config = TrainingConfig(max_steps=4, learning_rate=1e-2, per_device_train_batch_size=4, lora=lora)
    train(base, pairs, output, config=config, progress=False)
    tokenizer = AutoTokenizer.from_pretrained(output)
    if lora:
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        plain = PeftModel.from_pretrained(plain, output)
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(output)
        assert plain.config.num_labels == 1
    plain.config.pad_token_id = tokenizer.pad_token_id
    plain.eval()
    model = RewardModel.from_pretrained(output)
    prompts, responses = [pair["prompt"] for pair in pairs], [pair["chosen"] for pair in pairs]
    inputs = tokenizer.pad(
        {"input_ids": model.encode(prompts, responses).input_ids}, padding_side="right", return_tensors="pt"
    )
    if (types := model.encode(prompts, responses).token_type_ids) is not None:
        inputs["token_type_ids"] = tokenizer.pad({"input_ids": types}, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = plain(**inputs).logits.squeeze(-1)
    torch.testing.assert_close(logits, model.rewards(prompts, responses), atol=1e-5, rtol=1e-5)
    assert logits.std() > 1e-4


def test_folder_is_complete_and_nothing_else(
    tiny_models: Callable[..., Path], pairs: Pairs, eval_pairs: Pairs, tmp_path: Path
) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / "rm"
    result = train(base, pairs, output, eval_data=eval_pairs, config=QUICK, progress=False)
    assert {path.name for path in output.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_result.json",
    }
    assert json.loads((output / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert json.loads((output / "training_result.json").read_text()) == result.to_dict()
    header = yaml.safe_load((output / "README.md").read_text().split("---")[1])
    assert header["library_name"] == "peft"
    assert "reward-model" in header["tags"]
    assert "base_model" not in header  # a folder is no name on the hub
    card = (output / "README.md").read_text()
    assert f"accuracy {result.accuracy:.3f}" in card
    assert "48 pairs" in card


@pytest.mark.parametrize("lora", [True, False])
def test_code_of_the_model_card_runs(
    lora: bool, tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(max_steps=1, lora=lora)
    train(tiny_models("llama", head=False), pairs, tmp_path / "rm", config=config, progress=False)
    monkeypatch.chdir(tmp_path)
    blocks = (tmp_path / "rm" / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block.split("```")[0], names)
        assert names["model"].config.pad_token_id is not None


def test_accuracy_counts_ties_half_and_leaves_out_undecided_pairs() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [0.0, 3.0], [5.0, 0.0]])
    p_chosen = np.array([1.0, 1.0, 1.0, 0.2, 0.5])
    metrics = preference_metrics(EvalPrediction(predictions=rewards, label_ids=p_chosen))
    assert metrics["accuracy"] == (1 + 0 + 0.5 + 1) / 4
    difference = rewards[:, 0] - rewards[:, 1]
    expected = np.log1p(np.exp(-difference)) * p_chosen + np.log1p(np.exp(difference)) * (1 - p_chosen)
    assert metrics["nll"] == pytest.approx(expected.mean())


def test_no_decided_pair_no_accuracy(
    tiny_models: Callable[..., Path], pairs: Pairs, eval_pairs: Pairs, tmp_path: Path
) -> None:
    undecided = [pair | {"p_chosen": 0.5} for pair in eval_pairs]
    base = tiny_models("llama", head=False)
    result = train(base, pairs, tmp_path / "rm", eval_data=undecided, config=QUICK, progress=False)
    assert result.accuracy is None
    assert result.nll is not None


def test_base_is_found_from_any_directory(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_models("llama", head=False)
    monkeypatch.chdir(base.parent)
    train(base.name, pairs, tmp_path / "rm", config=QUICK, progress=False)
    monkeypatch.chdir(tmp_path)
    assert rewards(tmp_path / "rm", pairs).isfinite().all()


def test_same_seed_same_weights_and_another_seed_others(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    base = tiny_models("bert", head=False)
    found = []
    for run, seed in enumerate((0, 0, 1)):
        config = TrainingConfig(max_steps=4, learning_rate=1e-2, lora_dropout=0.2, seed=seed)
        torch.rand(run + 1)  # what the caller drew before does not matter
        train(base, pairs, tmp_path / str(run), config=config, progress=False)
        found.append(rewards(tmp_path / str(run), pairs))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_leaves_the_callers_random_numbers_alone(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()  # noqa: NPY002

    def seed() -> None:
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)

    seed()
    expected = draw()
    seed()
    train(tiny_models("llama", head=False), pairs, tmp_path / "rm", config=QUICK, progress=False)
    assert draw() == expected


def test_continues_an_adapter_made_here(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    base = tiny_models("llama", head=False)
    first = train(base, pairs, tmp_path / "first", config=LONG, progress=False)
    second = train(tmp_path / "first", pairs, tmp_path / "second", config=LONG, progress=False)
    assert second.train_loss < first.train_loss / 2
    settings = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    assert settings["r"] == 8
    assert not torch.allclose(rewards(tmp_path / "first", pairs), rewards(tmp_path / "second", pairs), atol=1e-3)


def test_continues_an_adapter_made_by_plain_peft(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_models("llama", head=False), num_labels=1)
    config = LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=7, target_modules=["q_proj", "down_proj"])
    get_peft_model(plain, config).save_pretrained(tmp_path / "peft")
    before = rewards(tmp_path / "peft", pairs)
    train(tmp_path / "peft", pairs, tmp_path / "rm", config=QUICK, progress=False)
    settings = json.loads((tmp_path / "rm" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 7)
    assert set(settings["target_modules"]) == {"q_proj", "down_proj"}
    assert not torch.allclose(before, rewards(tmp_path / "rm", pairs), atol=1e-3)


def test_full_training_on_an_adapter_merges_it_first(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    train(tiny_models("llama", head=False), pairs, tmp_path / "first", config=LONG, progress=False)
    tiny_step = TrainingConfig(max_steps=1, learning_rate=1e-9, lora=False)
    train(tmp_path / "first", pairs, tmp_path / "full", config=tiny_step, progress=False)
    assert not (tmp_path / "full" / "adapter_config.json").exists()
    before, after = rewards(tmp_path / "first", pairs), rewards(tmp_path / "full", pairs)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_continues_from_a_trained_head(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    model = tiny_models("bert")
    config = TrainingConfig(max_steps=1, learning_rate=1e-9)
    train(model, pairs, tmp_path / "rm", config=config, progress=False)
    torch.testing.assert_close(rewards(model, pairs), rewards(tmp_path / "rm", pairs), atol=1e-4, rtol=1e-4)


def test_a_loaded_model_is_trained_in_place(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama", head=False))
    assert model.head_is_new
    train(model, pairs, tmp_path / "rm", config=QUICK, progress=False)
    assert not model.head_is_new
    assert not model.model.training
    prompts, responses = [pair["prompt"] for pair in pairs], [pair["chosen"] for pair in pairs]
    torch.testing.assert_close(model.rewards(prompts, responses), rewards(tmp_path / "rm", pairs))


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_model_loaded_in_bfloat16_is_trained_in_float32(
    kind: str, bf16: bool, lora: bool, tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    model = RewardModel.from_pretrained(tiny_models(kind, head=False), dtype=torch.bfloat16, device="cpu")
    config = TrainingConfig(max_steps=4, learning_rate=1e-2, bf16=bf16, use_cpu=True, lora=lora)
    train(model, pairs, tmp_path / "rm", config=config, progress=False)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert {value.dtype for value in load_file(tmp_path / "rm" / name).values()} == {torch.float32}
    assert {parameter.dtype for parameter in model.model.parameters()} <= {torch.bfloat16, torch.float32}
    prompts, responses = [pair["prompt"] for pair in pairs], [pair["chosen"] for pair in pairs]
    expected = rewards(tmp_path / "rm", pairs)
    torch.testing.assert_close(model.rewards(prompts, responses), expected, atol=0.1, rtol=0.1)


def test_lora_on_a_base_that_is_in_memory_only_is_refused(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama"))
    model.config.name_or_path = model.model.name_or_path = ""
    with pytest.raises(ModelError, match="in memory only"):
        train(model, pairs, tmp_path / "rm", config=QUICK, progress=False)
    train(model, pairs, tmp_path / "rm", config=TrainingConfig(max_steps=1, lora=False), progress=False)


def test_margin_soft_labels_and_options_reach_the_loss(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    model = tiny_models("bert")
    start = RewardModel.from_pretrained(model)
    labelled = [pair | {"margin": 0.1 * i, "p_chosen": 0.5 + 0.01 * i} for i, pair in enumerate(pairs)]
    config = TrainingConfig(
        max_steps=1,
        learning_rate=1e-9,
        per_device_train_batch_size=48,
        label_smoothing=0.1,
        center_rewards_coefficient=0.3,
        lora=False,
    )
    # Dropout would change the loss of the step; the rest is the documented formula.
    start.config.hidden_dropout_prob = start.config.attention_probs_dropout_prob = 0.0
    start.save_pretrained(tmp_path / "start")
    result = train(tmp_path / "start", labelled, tmp_path / "rm", config=config, progress=False)
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (start.rewards(prompts, [pair[side] for pair in pairs]) for side in ("chosen", "rejected"))
    z = chosen - rejected - torch.tensor([pair["margin"] for pair in labelled])
    p = torch.tensor([pair["p_chosen"] for pair in labelled])
    t = p * 0.9 + (1 - p) * 0.1
    nll = t * torch.log1p(torch.exp(-z)) + (1 - t) * torch.log1p(torch.exp(z))
    expected = nll.mean() + 0.3 * (chosen + rejected).square().mean()
    assert result.train_loss == pytest.approx(expected.item(), abs=1e-4)


def test_accumulated_batches_equal_one_large_batch(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    found = []
    for run, (size, accumulate) in enumerate(((8, 1), (2, 4))):
        config = TrainingConfig(
            max_steps=3,
            learning_rate=1e-2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulate,
        )
        train(tiny_models("llama", head=False), pairs, tmp_path / str(run), config=config, progress=False)
        found.append(rewards(tmp_path / str(run), pairs))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_gradient_checkpointing_changes_nothing(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    found = []
    for run, checkpointing in enumerate((False, True)):
        config = TrainingConfig(max_steps=3, learning_rate=1e-2, gradient_checkpointing=checkpointing)
        train(tiny_models("llama", head=False), pairs, tmp_path / str(run), config=config, progress=False)
        found.append(rewards(tmp_path / str(run), pairs))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_bfloat16_on_cpu_learns_and_saves_float32(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    config = TrainingConfig(
        num_train_epochs=6, learning_rate=1e-2, per_device_train_batch_size=4, bf16=True, use_cpu=True
    )
    result = train(tiny_models("llama", head=False), pairs, tmp_path / "rm", config=config, progress=False)
    assert result.train_loss < 0.5
    model = RewardModel.from_pretrained(tmp_path / "rm", device="cpu")
    assert model.head.weight.dtype == torch.float32


def test_default_learning_rate_is_that_of_the_model_and_warms_up(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    config = TrainingConfig(max_steps=20, per_device_train_batch_size=2, logging_steps=1)
    result = train(tiny_models("llama", head=False), pairs, tmp_path / "rm", config=config, progress=False)
    rates = [record["learning_rate"] for record in result.history if "learning_rate" in record]
    assert max(rates) == pytest.approx(config.default_learning_rate(32))
    assert rates.index(max(rates)) == 2  # a tenth of the steps


def test_max_length_cuts_are_counted_or_refused(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    config = TrainingConfig(max_steps=1, max_length=12)
    base = tiny_models("llama", head=False)
    result = train(base, pairs, tmp_path / "rm", config=config, progress=False)
    assert 0 < result.num_prompt_truncated <= 96
    with pytest.raises(DataError, match="exceed 12 tokens"):
        train(base, pairs, tmp_path / "strict", config=config, strict=True, progress=False)
    assert not (tmp_path / "strict").exists()


def test_evaluates_while_it_trains(
    tiny_models: Callable[..., Path], pairs: Pairs, eval_pairs: Pairs, tmp_path: Path
) -> None:
    config = TrainingConfig(max_steps=4, eval_steps=2, logging_steps=1)
    result = train(
        tiny_models("llama", head=False), pairs, tmp_path / "rm", eval_data=eval_pairs, config=config, progress=False
    )
    steps = [record["step"] for record in result.history if "eval_accuracy" in record]
    assert steps[:2] == [2, 4]
    losses = [record["loss"] for record in result.history if "loss" in record]
    assert len(losses) == 4
    assert result.train_loss == pytest.approx(sum(losses) / 4)


@pytest.mark.parametrize("form", ["iterable", "streaming", "preferences"])
def test_streams(form: str, tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(pair) for pair in pairs))
    data: Any = file
    if form == "iterable":
        data = Dataset.from_list(pairs).to_iterable_dataset()
        assert isinstance(data, IterableDataset)
    elif form == "preferences":
        data = load_preferences(file, streaming=True)
    options: dict[str, Any] = {"streaming": form == "streaming", "progress": False}
    base = tiny_models("llama", head=False)
    with pytest.raises(DataError, match="max_steps"):
        train(base, data, tmp_path / "rm", **options)
    # More steps than one pass has.
    config = TrainingConfig(max_steps=70, learning_rate=1e-2, per_device_train_batch_size=4)
    result = train(base, data, tmp_path / "rm", config=config, **options)
    assert result.num_pairs is None
    assert result.num_steps == 70
    assert result.train_loss < 0.5


def test_new_modules_below_the_head_are_saved_with_the_adapter(pairs: Pairs, tmp_path: Path) -> None:
    """DistilBERT's classifier has a layer of its own below the head, which PEFT alone would forget."""
    from transformers import DistilBertConfig, DistilBertModel

    tokenizer = _encoder_tokenizer()
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=len(tokenizer), dim=32, hidden_dim=64, n_layers=1, n_heads=4)
    DistilBertModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    train(tmp_path / "base", pairs, tmp_path / "rm", config=LONG, progress=False)
    model = RewardModel.from_pretrained(tmp_path / "rm", seed=0)
    other = RewardModel.from_pretrained(tmp_path / "rm", seed=1)
    prompts, responses = [pair["prompt"] for pair in pairs], [pair["chosen"] for pair in pairs]
    torch.testing.assert_close(model.rewards(prompts, responses), other.rewards(prompts, responses))


def _encoder_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "<cls>", "<sep>"]
    trainer = trainers.WordLevelTrainer(special_tokens=special)
    tokenizer.train_from_iterator(
        ["apple pear plum river stone bird door window house sunny warm yes cold no"], trainer
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)
