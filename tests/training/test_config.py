import pytest

from prudent.training import TrainingConfig


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("learning_rate", 0.0),
        ("max_steps", 0),
        ("num_train_epochs", 0),
        ("per_device_train_batch_size", 0),
        ("label_smoothing", 0.5),
        ("lora_dropout", 1.0),
        ("warmup_ratio", 1.0),
        ("max_length", 4),
        ("center_rewards_coefficient", -0.1),
        ("save_steps", 0),
        ("lr_scheduler_type", "stepwise"),
        ("loss", "hinge"),
    ],
)
def test_impossible_options_are_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        TrainingConfig(**{option: value})


def test_classification_fixes_its_constant_by_itself() -> None:
    with pytest.raises(ValueError, match=r"center_rewards_coefficient is 0\.1; it must be 0 with loss classification"):
        TrainingConfig(loss="classification", center_rewards_coefficient=0.1)


def test_default_learning_rate_falls_with_the_size_of_the_model() -> None:
    lora, full = TrainingConfig(), TrainingConfig(lora=False)
    assert lora.default_learning_rate(2000) == pytest.approx(5e-4)
    assert lora.default_learning_rate(384) == pytest.approx(1.8e-3, rel=0.02)
    assert lora.default_learning_rate(4096) == pytest.approx(2.9e-4, rel=0.02)
    assert full.default_learning_rate(768) == pytest.approx(5e-5, rel=0.1)
