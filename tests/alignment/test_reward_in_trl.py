"""`PrudentReward` in TRL's own trainers, with a real small language model as the policy."""

import math

import pytest
import torch

from prudent.alignment import PrudentReward

pytest.importorskip("trl", reason="TRL is an extra: pip install 'prudent[align]'")

PROMPTS = ["Once upon a time", "The little dog", "Lily went to", "One day a boy"]


def data(is_chat: bool):
    from datasets import Dataset

    prompts = [[{"role": "user", "content": text}] for text in PROMPTS] if is_chat else PROMPTS
    return Dataset.from_dict({"prompt": prompts, "topic": ["a"] * len(prompts)})


def options(folder) -> dict:
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": 1e-3,
    }


@pytest.mark.parametrize("is_chat", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_two_steps(algorithm, is_chat, reward_models, shared_data, tmp_path):
    """A trainer of TRL takes a second or two to build and to step twice."""
    import trl

    trainer_class, config_class = {
        "rloo": (trl.RLOOTrainer, trl.RLOOConfig),
        "grpo": (trl.GRPOTrainer, trl.GRPOConfig),
    }[algorithm]
    reward = PrudentReward(reward_models["helpful"], "lcb_std(1)", max_completion_length=8, eos_token_id=1)
    trainer = trainer_class(
        str(shared_data / "tiny_lm_stories260K"),
        reward_funcs=[reward, reward.variance_column(), reward.sign_column()],
        args=config_class(
            **options(tmp_path),
            num_generations=2,
            max_completion_length=8,
            reward_weights=[1.0, 0.0, 0.0],
            beta=0.05,
            log_completions=True,
        ),
        train_dataset=data(is_chat),
    )
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.train()
    logs = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logs) == 2
    for row in logs:
        assert all(
            math.isfinite(row[f"prudent/{name}"]) for name in ("reward_mean", "reward_std", "contrast_std", "reward")
        )
        assert row["prudent/share_cut"] > 0
        assert row["rewards/prudent/mean"] == pytest.approx(row["reward"], rel=1e-4)
        assert row["rewards/prudent/mean"] < row["prudent/reward_mean"]
        assert row["rewards/variance/mean"] >= row["prudent/reward_std"] ** 2
        assert 0 <= row["rewards/sign_weight/mean"] <= 1
    assert set(trainer._logs["extra"]) == {"prudent_reward_mean", "prudent_reward_std"}
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))


@pytest.mark.parametrize("is_chat", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_steps_of_online_dpo(is_chat, reward_models, shared_data, tmp_path, monkeypatch):
    """It gives no `log_metric`, and each prompt has two completions."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    policy = shared_data / "tiny_lm_stories260K"
    given = []

    class Watched(PrudentReward):
        def __call__(self, *args, **columns):
            given.append((columns, super().__call__(*args, **columns)))
            return given[-1][1]

    trainer = OnlineDPOTrainer(
        AutoModelForCausalLM.from_pretrained(policy),
        reward_funcs=Watched(reward_models["helpful"], "lcb_std(1)"),
        args=OnlineDPOConfig(**options(tmp_path), max_new_tokens=8),
        train_dataset=data(is_chat),
        processing_class=AutoTokenizer.from_pretrained(policy),
    )
    trainer.train()
    assert len(given) == 2
    columns, values = given[0]
    assert "log_metric" not in columns
    assert len(values) == len(columns["completions"]) == 8
    assert isinstance(columns["completions"][0], list) is is_chat
    assert all(isinstance(value, float) for value in values)
