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
    ],
)
def test_impossible_options_are_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        TrainingConfig(**{option: value})


def test_learning_rate_depends_on_what_is_trained() -> None:
    assert TrainingConfig().rate > TrainingConfig(lora=False).rate
    assert TrainingConfig(learning_rate=0.5, lora=False).rate == 0.5
