"""`Policy`: what it draws, where texts begin and end, and what is refused."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from prudent.errors import ModelError
from prudent.sampling import Policy
from prudent.sampling._drawing import TokenDraws, uniforms, warpers

PROMPTS = ["name a fruit", "tell me about the weather today please", "the small bird"]


@pytest.fixture(scope="module")
def policy(tiny_models):
    return Policy.from_pretrained(tiny_models("llama", head=False))


def draw(policy, prompts, *, tokens=12, seed=0, **options):
    numbers = [uniforms(seed, prompt, 0, tokens) for prompt in prompts]
    return policy.complete(policy.encode(prompts), np.stack(numbers), **options)


@pytest.mark.parametrize(
    "cut", [{}, {"temperature": 0.5}, {"temperature": 2.0, "top_k": 5}, {"top_p": 0.6}, {"top_k": 9, "top_p": 0.9}]
)
def test_first_tokens_follow_the_distribution_of_the_policy(policy, cut):
    """Against the softmax of the logits, cut by hand."""
    ids = policy.encode(["name a fruit"])[0]
    logits = policy.model(torch.tensor([ids])).logits[0, -1].detach().double().numpy() / cut.get("temperature", 1.0)
    order = np.argsort(-logits)
    kept = order[: cut.get("top_k", len(order))]
    probability = np.exp(logits[kept] - logits[kept].max())
    probability /= probability.sum()
    size = int(np.searchsorted(probability.cumsum(), cut.get("top_p", 1.0))) + 1
    kept, probability = kept[:size], probability[:size] / probability[:size].sum()
    draws = TokenDraws(torch.from_numpy(uniforms(0, "p", 0, 20_000))[:, None], warpers(*_cuts(cut)), lambda: None)
    scores = torch.from_numpy(logits * cut.get("temperature", 1.0)).float().expand(20_000, -1)
    counts = np.bincount(draws(torch.zeros(20_000, 1), scores).argmax(-1).numpy(), minlength=len(logits))
    assert counts[kept].sum() == 20_000
    common = probability * 20_000 >= 5
    observed = np.append(counts[kept][common], 20_000 - counts[kept][common].sum())
    expected = np.append(probability[common] * 20_000, 20_000 * (1 - probability[common].sum()))
    filled = expected > 1e-6
    assert stats.chisquare(observed[filled], expected[filled]).pvalue > 1e-4


def _cuts(cut):
    return cut.get("temperature", 1.0), cut.get("top_k", 0), cut.get("top_p", 1.0)


def test_tokens_are_those_of_a_loop_without_generate(policy):
    """Token by token, without a cache, padding or a batch."""
    for found, prompt in zip(draw(policy, PROMPTS, temperature=0.7), PROMPTS, strict=True):
        ids = policy.encode([prompt])[0]
        start = len(ids)
        for number in uniforms(0, prompt, 0, 12):
            logits = policy.model(torch.tensor([ids])).logits[0, -1].detach().double()
            cumulative = torch.softmax(logits / 0.7, -1).cumsum(-1)
            ids = [*ids, int((cumulative <= number).sum())]
            if ids[-1] in policy.eos_token_ids:
                break
        assert found.num_tokens == len(ids) - start
        assert found.finished == (ids[-1] in policy.eos_token_ids)
        tokens = ids[start:-1] if found.finished else ids[start:]
        assert found.text.split() == policy.tokenizer.decode(tokens, skip_special_tokens=True).split()


def test_a_response_does_not_depend_on_its_batch(policy):
    together = draw(policy, PROMPTS, tokens=40)
    assert together == [draw(policy, [prompt], tokens=40)[0] for prompt in PROMPTS]
    assert together == draw(policy, PROMPTS[::-1], tokens=40)[::-1]
    short = draw(policy, PROMPTS, tokens=5)
    assert all(long.text.startswith(cut.text) for long, cut in zip(together, short, strict=True))


def test_progress_is_told_in_whole_responses(policy):
    steps = []
    draw(policy, PROMPTS, tokens=7, advance=steps.append)
    assert sum(steps) == 3
    assert all(isinstance(step, int) and step >= 0 for step in steps)


def test_prompt_and_response_read_as_one_text_without_a_template(shared_data):
    policy = Policy.from_pretrained(shared_data / "tiny_lm_stories260K", chat_template=False)
    texts = draw(policy, ["Once upon a time", "The little dog was sad because"], tokens=30)
    assert texts[0].text[0] in ", "
    assert texts[1].text.startswith(" ")
    templated = Policy.from_pretrained(shared_data / "tiny_lm_stories260K")
    assert templated.chat_template
    assert not policy.chat_template
    ids = templated.encode(["Once upon a time"])[0]
    assert templated.tokenizer.decode(ids) == "user: Once upon a time\nassistant: "
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    plain = policy.tokenizer.decode(policy.encode([turns])[0], skip_special_tokens=True)
    assert plain == "user: hi\nassistant: yes\nassistant: "


def test_what_the_checkpoint_says_of_decoding_is_not_used(policy, tiny_models):
    model = AutoModelForCausalLM.from_pretrained(tiny_models("llama", head=False))
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.temperature = 0.1
    model.generation_config.top_k = 1
    model.generation_config.do_sample = True
    other = Policy(model, AutoTokenizer.from_pretrained(tiny_models("llama", head=False)))
    assert draw(other, PROMPTS) == draw(policy, PROMPTS)
    assert model.generation_config.top_k == 1


def test_any_of_several_ends_of_text_ends_it(tiny_models, policy):
    model = AutoModelForCausalLM.from_pretrained(tiny_models("llama", head=False))
    usual = draw(policy, PROMPTS, tokens=30)[0]
    stop = policy.tokenizer(usual.text)["input_ids"][4]
    model.generation_config.eos_token_id = [2, stop]
    found = draw(Policy(model, policy.tokenizer), PROMPTS, tokens=30)[0]
    assert found.finished
    assert found.num_tokens <= 5
    assert usual.text.startswith(found.text)


def test_without_an_end_of_text_and_a_pad_token(tiny_models):
    model = AutoModelForCausalLM.from_pretrained(tiny_models("llama", head=False))
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(tiny_models("llama", head=False))
    tokenizer.pad_token = tokenizer.eos_token = None
    policy = Policy(model, tokenizer)
    assert policy.eos_token_ids == ()
    assert [one.num_tokens for one in draw(policy, PROMPTS, tokens=9)] == [9] * 3
    assert not any(one.finished for one in draw(policy, PROMPTS, tokens=9))


def test_an_adapter_changes_what_is_written(tiny_models, tmp_path, policy):
    base = AutoModelForCausalLM.from_pretrained(tiny_models("llama", head=False))
    adapted = get_peft_model(base, LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    found = Policy.from_pretrained(tmp_path / "adapter")
    assert found.name == str(tmp_path / "adapter")
    assert found.identity()["policy_weights"] != policy.identity()["policy_weights"]
    in_memory = Policy(adapted, policy.tokenizer)
    assert draw(found, PROMPTS) == draw(in_memory, PROMPTS) != draw(policy, PROMPTS)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_other_architectures_write(tiny_models, kind):
    policy = Policy.from_pretrained(tiny_models(kind, head=False))
    together = draw(policy, PROMPTS)
    assert together == [draw(policy, [prompt])[0] for prompt in PROMPTS]
    assert policy.context_length == 128


def test_what_is_no_policy_is_refused(tiny_models, tmp_path):
    with pytest.raises(ModelError, match="no causal language model"):
        Policy.from_pretrained(tiny_models("llama"))
    with pytest.raises(ModelError, match="no causal language model"):
        Policy.from_pretrained(tiny_models("bert", head=False))
    with pytest.raises(ModelError, match="there is no folder"):
        Policy.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds neither"):
        Policy.from_pretrained(tmp_path / "empty")
    model = AutoModelForCausalLM.from_pretrained(tiny_models("llama", head=False))
    model.lm_head.weight.data[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(ModelError, match=r"lm_head.weight are not finite"):
        Policy.from_pretrained(tmp_path / "broken")
    classifier = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_models("llama", head=False)), LoraConfig(task_type="SEQ_CLS", r=2)
    )
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(ModelError, match="an adapter for SEQ_CLS, a policy has one for CAUSAL_LM"):
        Policy.from_pretrained(tmp_path / "classifier")


def test_weights_that_are_not_there_are_named(tiny_models, tmp_path):
    from transformers import AutoModel

    backbone = AutoModel.from_pretrained(tiny_models("llama", head=False))
    backbone.save_pretrained(tmp_path / "backbone")
    with pytest.raises(ModelError, match=r"lacks weights of a language model: lm_head.weight"):
        Policy.from_pretrained(tmp_path / "backbone")


def test_logits_that_are_not_finite_stop_the_run():
    draws = TokenDraws(torch.zeros(1, 1, dtype=torch.float64), warpers(1.0, 0, 1.0), lambda: None)
    with pytest.raises(ModelError, match="not finite"):
        draws(torch.zeros(1, 1), torch.tensor([[0.0, torch.nan]]))


def test_a_number_that_rounds_to_one_draws_a_token_that_may_be_drawn():
    draws = TokenDraws(torch.tensor([[1.0], [0.999]], dtype=torch.float64), warpers(1.0, 2, 1.0), lambda: None)
    scores = torch.tensor([0.0, 3.0, 3.0, -1.0, -2.0]).expand(2, -1)
    assert draws(torch.zeros(2, 1), scores).argmax(-1).tolist() == [2, 2]
