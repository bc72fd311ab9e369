"""What a LoRA posterior refuses, and in which words."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from prudent.errors import DataError, PosteriorError, UnsupportedError
from prudent.models import RewardModel
from prudent.posteriors import fit, load_posterior
from prudent.posteriors._blocks import find_blocks

STRUCTURES = ["full", "kron", "ekfac", "diag"]


@pytest.fixture
def fitted(lora_folders, lora_pairs, tmp_path):
    fit(lora_folders("llama"), lora_pairs, tmp_path / "rm", posterior="ekfac", progress=False)
    return tmp_path / "rm"


def adapted(folder, config):
    """The reward model of a folder with another kind of adapter on it."""
    from peft import get_peft_model

    base = RewardModel.from_pretrained(folder)
    return RewardModel(get_peft_model(base.model, config), base.tokenizer)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_model_without_lora_layers(structure, tiny_models, lora_pairs):
    with pytest.raises(PosteriorError, match=r"no LoRA adapter.*'last_layer'"):
        fit(tiny_models("llama"), lora_pairs, posterior=structure, progress=False)


def test_other_kinds_of_adapter(tiny_models, lora_pairs):
    from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoraConfig

    task = {"task_type": "SEQ_CLS", "target_modules": ["q_proj", "v_proj"]}
    for config, word in (
        (LoraConfig(r=2, use_dora=True, **task), "DoRA"),
        (IA3Config(feedforward_modules=[], **task), "IA3"),
        (AdaLoraConfig(init_r=4, target_r=2, total_step=10, **task), "ADALORA"),
        (LoHaConfig(r=2, **task), "LOHA"),
        (LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["embed_tokens"]), "embedding"),
    ):
        with pytest.raises(UnsupportedError, match=word):
            fit(adapted(tiny_models("llama"), config), lora_pairs, posterior="ekfac", progress=False)


def test_adapters_that_are_merged_off_or_several(lora_model):
    merged = lora_model("llama")
    merged.model.merge_adapter()
    with pytest.raises(UnsupportedError, match="merged or switched off"):
        find_blocks(merged)
    off = lora_model("llama")
    off.model.base_model.disable_adapter_layers()
    with pytest.raises(UnsupportedError, match="merged or switched off"):
        find_blocks(off)
    several = lora_model("llama")
    several.model.add_adapter("second", several.model.peft_config["default"])
    several.model.base_model.active_adapter = ["default", "second"]
    with pytest.raises(UnsupportedError, match="2 adapters are active"):
        find_blocks(several)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_too_few_pairs(structure, lora_folders, lora_pairs):
    with pytest.raises(PosteriorError, match="at least two preference pairs, there are 1"):
        fit(lora_folders("llama"), lora_pairs[:1], posterior=structure, progress=False)
    with pytest.raises((DataError, PosteriorError), match=r"no rows|empty|at least two|no pairs|no preference"):
        fit(lora_folders("llama"), [], posterior=structure, progress=False)


def test_pairs_that_the_model_does_not_tell_apart(lora_model, lora_pairs):
    model = lora_model("llama", zero_b=True)
    with torch.no_grad():
        # features of zero everywhere: neither the head nor an adapter moves a reward
        model.model.get_base_model().model.norm.weight.zero_()
    with pytest.raises(PosteriorError, match="in every pair; the model tells none apart"):
        fit(model, lora_pairs, posterior="diag", progress=False)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_rewards_that_are_not_finite_name_the_row(structure, lora_model, lora_pairs):
    model = lora_model("llama", dtype=torch.float32)
    word = model.tokenizer.convert_tokens_to_ids("quickly")
    with torch.no_grad():
        model.model.get_input_embeddings().weight[word] = torch.inf
    rows = [dict(row) for row in lora_pairs]
    rows[7]["rejected"] += " quickly"
    rows[9]["chosen"] += " quickly"
    with pytest.raises(PosteriorError, match=r"reward of 2 pairs is not finite \(row 7 first\)"):
        fit(model, rows, posterior=structure, progress=False)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("tokens_per_batch", [None, 1])
def test_gradients_that_are_not_finite_name_the_row(structure, tokens_per_batch, lora_model, lora_pairs):
    # the square root of zero: a finite reward with an infinite derivative, in texts with one word
    model = lora_model("llama", dtype=torch.float32)
    word = model.tokenizer.convert_tokens_to_ids("quickly")
    backbone = model.model.get_base_model().model
    faulty = {}

    def see(_, arguments, keywords):
        ids = arguments[0] if arguments else keywords["input_ids"]
        faulty["rows"] = (ids == word).any(1)

    def break_gradient(_, arguments, output):
        changed = output.clone()
        changed[faulty["rows"]] += (output[faulty["rows"]] * 0).sqrt()
        return changed

    backbone.register_forward_pre_hook(see, with_kwargs=True)
    backbone.norm.register_forward_hook(break_gradient)
    rows = [dict(row) for row in lora_pairs]
    rows[5]["rejected"] += " quickly"
    with pytest.raises(PosteriorError, match=r"gradient of 1 pairs? is not finite \(row 5 first\)"):
        fit(model, rows, posterior=structure, tokens_per_batch=tokens_per_batch, progress=False)


def test_options_that_these_kinds_do_not_have(lora_folders, lora_pairs):
    folder = lora_folders("llama")
    with pytest.raises(UnsupportedError, match=r"'kron' has no option head 'refit'"):
        fit(folder, lora_pairs, posterior="kron", head="refit", progress=False)
    with pytest.raises(UnsupportedError, match=r"'ekfac' has no option pooling 'mean'"):
        fit(folder, lora_pairs, posterior="ekfac", pooling="mean", progress=False)
    with pytest.raises(UnsupportedError, match="per_layer"):
        fit(folder, lora_pairs, posterior="full", per_layer=True, progress=False)
    with pytest.raises(PosteriorError, match="eval_data"):
        fit(folder, lora_pairs, posterior="diag", prior_precision="held_out", progress=False)
    with pytest.raises(UnsupportedError, match="weights, use 'ekfac'"):
        fit(lora_folders("llama", r=16, target_modules="all-linear"), lora_pairs, posterior="full", progress=False)
    for options in (
        {"prior_precision": 0.0},
        {"prior_precision": -1.0},
        {"posterior_temperature": 0.0},
        {"max_rank": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            fit(folder, lora_pairs, posterior="ekfac", progress=False, **options)


def test_a_head_that_was_never_trained(tiny_models, lora_pairs):
    from prudent.models import add_lora

    base = RewardModel.from_pretrained(tiny_models("llama", head=False))
    model = RewardModel(
        add_lora(base.model, rank=2, alpha=4, dropout=0.0), base.tokenizer, new_modules=base.new_modules
    )
    with pytest.raises(PosteriorError, match="no trained head"):
        fit(model, lora_pairs, posterior="ekfac", progress=False)


def test_another_base_adapter_or_head(fitted, lora_folders, tiny_models):
    for folder in (
        lora_folders("qwen2"),
        lora_folders("llama", r=3),
        lora_folders("llama", zero_b=True),
        tiny_models("llama"),
    ):
        with pytest.raises(PosteriorError, match="other weights"):
            load_posterior(fitted, RewardModel.from_pretrained(folder))
    base = RewardModel.from_pretrained(fitted)
    with torch.no_grad():
        base.model.get_base_model().model.embed_tokens.weight[3] += 1
    with pytest.raises(PosteriorError, match="other weights"):
        load_posterior(fitted, base)
    head = RewardModel.from_pretrained(fitted)
    head.set_head(torch.ones(32), 0.0)
    with pytest.raises(PosteriorError, match="head changed"):
        load_posterior(fitted, head)


def test_a_posterior_is_not_used_on_another_model(fitted, lora_model, lora_texts, tiny_models):
    model = RewardModel.from_pretrained(fitted)
    posterior = load_posterior(fitted, model)
    for other in (lora_model("qwen2", dtype=torch.float32), lora_model("llama", r=3, dtype=torch.float32)):
        with pytest.raises(PosteriorError, match="LoRA layers are not those"):
            posterior.exact(other, other.encode(*lora_texts))
    plain = RewardModel.from_pretrained(tiny_models("llama"))
    with pytest.raises(PosteriorError, match="no LoRA adapter"):
        posterior.exact(plain, plain.encode(*lora_texts))
    model.set_head(torch.ones(32), 0.0)
    with pytest.raises(PosteriorError, match="head changed"):
        posterior.exact(model, model.encode(*lora_texts))


def test_damaged_entries(fitted):
    config = fitted / "posterior_config.json"
    entries = json.loads(config.read_text())
    model = RewardModel.from_pretrained(fitted)
    for name in ("blocks", "prior_precision", "structure", "jitter"):
        config.write_text(json.dumps({key: value for key, value in entries.items() if key != name}))
        with pytest.raises(PosteriorError, match=f"missing or unknown.*{name}"):
            load_posterior(fitted, model)
    config.write_text(json.dumps({**entries, "prior_precision": 2 * entries["prior_precision"]}))
    with pytest.raises(PosteriorError, match="does not belong"):
        load_posterior(fitted, model)
    config.write_text(json.dumps({**entries, "blocks": entries["blocks"][:-1]}))
    with pytest.raises(PosteriorError):
        load_posterior(fitted, model)
    from safetensors.torch import load_file, save_file

    config.write_text(json.dumps(entries))
    tensors = load_file(fitted / "posterior.safetensors")
    name = next(name for name in tensors if name.endswith("/eigenvalues"))
    save_file({**tensors, name: tensors[name] * torch.nan}, fitted / "posterior.safetensors")
    with pytest.raises(PosteriorError, match="not finite"):
        load_posterior(fitted, model)
    save_file({key: value for key, value in tensors.items() if key != name}, fitted / "posterior.safetensors")
    with pytest.raises(PosteriorError, match="missing or unknown"):
        load_posterior(fitted, model)


def test_a_base_that_moved_on_is_noticed(lora_folders, lora_pairs, tiny_models, tmp_path):
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(tiny_models("llama"), base)
    adapter = tmp_path / "adapter"
    shutil.copytree(lora_folders("llama"), adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    fit(adapter, lora_pairs, tmp_path / "rm", posterior="kron", progress=False)
    assert load_posterior(tmp_path / "rm", RewardModel.from_pretrained(tmp_path / "rm")).kind == "kron"
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if "up_proj" in name)
    save_file({**weights, name: weights[name] * 1.5}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PosteriorError, match="other weights"):
        load_posterior(tmp_path / "rm", RewardModel.from_pretrained(tmp_path / "rm"))


def test_ill_conditioned_curvature_is_reported(lora_model, lora_pairs, monkeypatch):
    from prudent.posteriors._fit_notes import fit_notes

    model = lora_model("llama", dtype=torch.float32)
    result = fit(model, lora_pairs, posterior="kron", progress=False)
    assert not any("ill-conditioned" in note for note in result.notes)
    mended = replace(result.posterior, jitter=2e-3)
    assert any("ill-conditioned" in note and "0.002" in note for note in fit_notes(mended, model, None))
