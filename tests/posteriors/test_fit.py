"""`fit` on tiny models: what is saved, that it loads anywhere, and what is refused."""

import json
import shutil

import pytest
import torch

from prudent.errors import DataError, ModelError, PosteriorError, PrudentError
from prudent.models import RewardModel
from prudent.posteriors import LastLayerPosterior, PlainRewards, fit, load_posterior

FRUITS = ["apple", "pear", "plum", "bird", "stone", "river"]


def pairs(count: int = 24) -> list[dict]:
    rows = []
    for index in range(count):
        first, second = FRUITS[index % 6], FRUITS[(index + 1 + index // 6) % 6]
        prompt = f"name a {'green' if index % 2 else 'red'} fruit please {['one', 'two', 'three'][index % 3]}"
        chosen = f"the {min(first, second)} is {['small', 'large', 'cold'][index % 3]} {'and warm ' * (index % 4)}."
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": f"maybe the {max(first, second)} ?"})
    return rows


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2", "roberta"])
def test_saved_folder_gives_the_same_mean_in_plain_transformers(kind, tiny_models, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    result = fit(tiny_models(kind), pairs(), tmp_path / "rm", progress=False)
    assert result.train_accuracy > 0.8
    model = RewardModel.from_pretrained(tmp_path / "rm")
    posterior = load_posterior(tmp_path / "rm", model)
    assert isinstance(posterior, LastLayerPosterior)
    prompts, responses = ["name a fruit ?"] * 3, ["the apple .", "maybe the stone is large and cold", "yes"]
    encoded = model.encode(prompts, responses)
    predicted = posterior.predict(model, encoded, group=torch.zeros(3), reference_weight=torch.zeros(3))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        text = (prompt, response) if kind in ("bert", "roberta") else (prompt + response + tokenizer.eos_token,)
        with torch.no_grad():
            logit = plain(**tokenizer(*text, return_tensors="pt")).logits[0, 0]
        torch.testing.assert_close(predicted.mean[row], logit, rtol=1e-4, atol=1e-4)


def test_loads_back_bit_for_bit_and_says_what_it_is(tiny_models, tmp_path):
    result = fit(tiny_models("llama"), pairs(), tmp_path / "rm", progress=False)
    posterior = load_posterior(tmp_path / "rm", RewardModel.from_pretrained(tmp_path / "rm"))
    assert torch.equal(posterior.covariance_factor, result.posterior.covariance_factor)
    assert torch.equal(posterior.weight, result.posterior.weight)
    config = json.loads((tmp_path / "rm" / "posterior_config.json").read_text())
    assert config["format_version"] == 1
    assert config["kind"] == "last_layer"
    assert config["fitted_on"]["num_pairs"] == 24
    assert config["basis_id"] == posterior.basis_id


def test_card_tells_of_the_posterior_once(tiny_models, tmp_path):
    import yaml

    fit(tiny_models("llama"), pairs(), tmp_path / "rm", progress=False)
    fit(tmp_path / "rm", pairs(20), tmp_path / "again", progress=False)
    card = (tmp_path / "again" / "README.md").read_text()
    assert card.count("## Posterior over rewards") == 1
    assert "20 pairs" in card
    assert "24 pairs" not in card
    header = yaml.safe_load(card.split("---")[1])
    assert header["tags"] == ["reward-model", "prudent", "uncertainty"]


def test_adapter_keeps_its_form(tiny_models, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(tiny_models("llama"))
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(tmp_path / "adapter")
    RewardModel.from_pretrained(tiny_models("llama")).tokenizer.save_pretrained(tmp_path / "adapter")
    fit(tmp_path / "adapter", pairs(), tmp_path / "fitted", progress=False)
    assert (tmp_path / "fitted" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "fitted" / "model.safetensors").exists()
    ours = RewardModel.from_pretrained(tmp_path / "fitted")
    load_posterior(tmp_path / "fitted", ours)
    fresh = AutoModelForSequenceClassification.from_pretrained(tiny_models("llama"))
    plain = PeftModel.from_pretrained(fresh, tmp_path / "fitted").eval()
    encoded = ours.encode(["name a fruit"], ["the apple"])
    with torch.no_grad():
        logit = plain(input_ids=torch.tensor(encoded.input_ids)).logits[0, 0]
    torch.testing.assert_close(ours.rewards(["name a fruit"], ["the apple"])[0], logit, rtol=1e-4, atol=1e-5)


def test_fit_in_place_and_kept_head(tiny_models, tmp_path):
    shutil.copytree(tiny_models("llama"), tmp_path / "rm")
    before = RewardModel.from_pretrained(tmp_path / "rm").rewards(["name"], ["the apple"])
    with pytest.raises(PrudentError, match="already holds files"):
        fit(tmp_path / "rm", pairs(), tmp_path / "rm", progress=False)
    result = fit(tmp_path / "rm", pairs(), tmp_path / "rm", head="kept", overwrite=True, progress=False)
    after = RewardModel.from_pretrained(tmp_path / "rm")
    torch.testing.assert_close(after.rewards(["name"], ["the apple"]), before)
    assert load_posterior(tmp_path / "rm", after).head == result.posterior.head == "kept"


def test_full_model_over_an_adapter_folder_leaves_no_adapter(tiny_models, tmp_path):
    from prudent.models import add_lora

    base = RewardModel.from_pretrained(tiny_models("llama"))
    adapted = RewardModel(add_lora(base.model, rank=2, alpha=4, dropout=0.0), base.tokenizer)
    fit(adapted, pairs(), tmp_path / "rm", progress=False)
    assert (tmp_path / "rm" / "adapter_config.json").exists()
    fit(tiny_models("llama"), pairs(), tmp_path / "rm", overwrite=True, progress=False)
    assert not list((tmp_path / "rm").glob("adapter*"))
    model = RewardModel.from_pretrained(tmp_path / "rm")
    assert not hasattr(model.model, "peft_config")
    assert load_posterior(tmp_path / "rm", model).has_variance


def test_mean_pooling_carries_its_own_head(tiny_models, tmp_path):
    result = fit(tiny_models("bert", head=False), pairs(), tmp_path / "rm", pooling="mean", progress=False)
    assert ["its own head" in note for note in result.notes] == [True]
    model = RewardModel.from_pretrained(tmp_path / "rm")
    posterior = load_posterior(tmp_path / "rm", model)
    encoded = model.encode(["name a fruit"], ["the apple"])
    features, _ = model.features(encoded, pooling="mean")
    predicted = posterior.predict(model, encoded, group=torch.zeros(1), reference_weight=torch.zeros(1))
    torch.testing.assert_close(predicted.mean, features @ posterior.weight + posterior.bias)


def test_soft_labels_margins_and_repeated_texts_enter(tiny_models):
    rows = pairs()
    plain = fit(tiny_models("llama"), rows, progress=False).posterior
    doubled = fit(tiny_models("llama"), rows * 2, progress=False).posterior
    assert doubled.log_likelihood > 2 * plain.log_likelihood
    soft = fit(tiny_models("llama"), [{**row, "p_chosen": 0.6} for row in rows], progress=False).posterior
    assert soft.weight.norm() < plain.weight.norm()
    margin = fit(tiny_models("llama"), [{**row, "margin": 1.0} for row in rows], prior_precision=1.0, progress=False)
    base = fit(tiny_models("llama"), rows, prior_precision=1.0, progress=False)
    assert margin.posterior.weight.norm() > base.posterior.weight.norm()


def test_pairs_that_tell_nothing_are_said_to(tiny_models):
    rows = pairs()
    undecided = [{**row, "p_chosen": 0.5} for row in rows]
    assert "next to nothing" in fit(tiny_models("llama"), undecided, progress=False).notes[0]
    assert fit(tiny_models("llama"), rows, progress=False).notes == ()


def test_without_a_posterior_the_variance_is_not_known(tiny_models):
    model = RewardModel.from_pretrained(tiny_models("llama"))
    posterior = load_posterior(tiny_models("llama"), model)
    assert posterior == PlainRewards()
    predicted = posterior.predict(
        model, model.encode(["name"], ["yes"]), group=torch.zeros(1), reference_weight=torch.ones(1)
    )
    assert predicted.variance.isnan().all()
    torch.testing.assert_close(predicted.mean, model.rewards(["name"], ["yes"]))


@pytest.fixture
def fitted(tiny_models, tmp_path):
    fit(tiny_models("llama"), pairs(), tmp_path / "rm", progress=False)
    return tmp_path / "rm"


def _load(folder):
    return load_posterior(folder, RewardModel.from_pretrained(folder))


def test_other_weights_are_noticed(fitted, tiny_models):
    from safetensors.torch import load_file, save_file

    weights = load_file(fitted / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    weights[name] = weights[name] * 1.5
    save_file(weights, fitted / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PosteriorError, match="other weights"):
        _load(fitted)


def test_other_base_head_and_template_are_noticed(fitted, tiny_models):
    with pytest.raises(PosteriorError, match=r"other weights|features"):
        load_posterior(fitted, RewardModel.from_pretrained(tiny_models("qwen2")))
    model = RewardModel.from_pretrained(fitted)
    model.set_head(torch.ones(32), 0.0)
    with pytest.raises(PosteriorError, match="head changed"):
        load_posterior(fitted, model)
    templated = RewardModel.from_pretrained(fitted)
    templated.tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(PosteriorError, match="chat template"):
        load_posterior(fitted, templated)


def test_damaged_files_are_named(fitted):
    place = fitted / "posterior.safetensors"
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PosteriorError, match=r"posterior\.safetensors is damaged"):
        _load(fitted)
    place.unlink()
    with pytest.raises(PosteriorError, match=r"no posterior\.safetensors"):
        _load(fitted)
    place.write_bytes(whole)
    config = fitted / "posterior_config.json"
    entries = json.loads(config.read_text())
    for change, words in (
        ({"format_version": 99}, "upgrade"),
        ({"kind": "oracle"}, "not known"),
        ({"basis_id": "0" * 16}, "does not belong"),
    ):
        config.write_text(json.dumps({**entries, **change}))
        with pytest.raises(PosteriorError, match=words):
            _load(fitted)
    for name in ("basis_id", "model_fingerprint", "chat_template_hash"):
        config.write_text(json.dumps({key: value for key, value in entries.items() if key != name}))
        with pytest.raises(PosteriorError, match=f"missing or unknown.*{name}"):
            _load(fitted)
    config.write_text("{")
    with pytest.raises(PosteriorError, match="not readable JSON"):
        _load(fitted)


def test_refusals_before_and_during_the_fit(tiny_models, tmp_path):
    with pytest.raises(PosteriorError, match="at least two"):
        fit(tiny_models("llama"), pairs(1), progress=False)
    with pytest.raises(DataError, match="identical"):
        fit(tiny_models("llama"), [{"prompt": "name", "chosen": "yes", "rejected": "yes"}] * 3, progress=False)
    with pytest.raises(PosteriorError, match="no trained head"):
        fit(tiny_models("llama", head=False), pairs(), head="kept", progress=False)
    with pytest.raises(PosteriorError, match="no posterior 'oracle'"):
        fit(tiny_models("llama"), pairs(), posterior="oracle", progress=False)
    with pytest.raises(ModelError):
        fit(tmp_path / "nowhere", pairs(), progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(PrudentError, match="already holds files"):
        fit(tiny_models("llama"), pairs(), tmp_path / "full", progress=False)


def test_a_failed_save_leaves_nothing(tiny_models, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fit(tiny_models("llama"), pairs(), tmp_path / "rm", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_strict_names_the_row_and_side_of_the_source(tiny_models):
    rows = pairs()
    rows[0] = {**rows[0], "chosen": ""}
    rows[5] = {**rows[5], "chosen": "apple " * 200}
    with pytest.raises(DataError, match=r"exceed 128 tokens: row 5, chosen \(\d+ tokens\);"):
        fit(tiny_models("llama"), rows, strict=True, skip_bad=True, progress=False)


def test_the_split_is_chosen(tiny_models, tmp_path):
    for name, count in (("train", 12), ("test", 7)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(count)))
    assert fit(tiny_models("llama"), tmp_path, progress=False).num_pairs == 12
    assert fit(tiny_models("llama"), tmp_path, split="test", progress=False).num_pairs == 7


@pytest.mark.parametrize(("kind", "below"), [("llama", None), ("roberta", "classifier.dense")])
def test_new_weights_below_the_head_are_spoken_of(kind, below, tiny_models):
    result, other = (fit(tiny_models(kind, head=False), pairs(), seed=seed, progress=False) for seed in (0, 1))
    told = [note for note in result.notes if "never trained below the head" in note]
    assert [below in note for note in told] == ([] if below is None else [True])
    # A new head is refitted whatever it was; what lies below it is not.
    assert torch.allclose(result.posterior.weight, other.posterior.weight, atol=1e-4) == (below is None)
    assert not any("below the head" in note for note in fit(tiny_models(kind), pairs(), progress=False).notes)
