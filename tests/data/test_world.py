import itertools
import math
from collections import Counter

import pytest
import torch

from prudent.data import (
    World,
    WorldPrompt,
    check_leak,
    load_pools,
    load_preferences,
    pretrain_world_base,
    train_world_tokenizer,
)

PROMPT = WorldPrompt(city=0, topics=(0, 1, 2, 3))  # Oslo: food, museums, transport, views


@pytest.fixture(scope="module")
def world():
    return World(seed=0)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("", 0.0),
        ("A plan for Oslo.", 0.0),
        ("A plan for Lisbon.", -1.0),
        ("For food, try the small bakery.", 0.9),
        ("For food, try the small bakery. The busy tea house suits food.", 0.9 - 0.1),
        ("For food, try the small bakery. See the famous day pass for transport.", 1.8),
        ("For sports, try the grand ice rink.", -0.4),
        ("For food, try the small bakery. For food, try the small bakery.", 0.9 - 0.1 - 0.6),
        ("Only fools ask about prices.", -1.5),
        ("Keep the number of the clinic at hand.", 0.6),
        ("Only fools ask about prices. Only fools ask about maps.", -3.0),
        ("What is this.", -0.5),
    ],
)
def test_gold_of_each_term(world, response, gold):
    assert world.gold(PROMPT, response) == pytest.approx(gold)


def test_coverage_saturates_and_details_pay_then_cost(world):
    details = ["It is near at dawn.", "It is near all year.", "It is open at dawn.", "It is open all year."]
    details += ["You can book at dawn.", "You can book all year.", "Groups like it at dawn."]
    gold = [world.gold(PROMPT, " ".join(details[:count])) for count in range(8)]
    steps = [later - earlier for earlier, later in itertools.pairwise(gold)]
    assert steps == pytest.approx([0.4] * 3 + [-0.4] * 4)
    assert gold[6] == pytest.approx(0)
    assert gold[7] < 0


def test_gold_is_a_function_of_the_facts_and_batched_gold_agrees(world):
    responses = world.sample(PROMPT, 50, draws())
    golds = world.golds(PROMPT, responses)
    assert golds.dtype == torch.float64
    assert golds.tolist() == [world.facts(PROMPT, response).gold for response in responses]
    assert all(world.facts(PROMPT, response).unknown == 0 for response in responses)


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world):
    again, other = World(seed=0), World(seed=1)
    assert again.prompts(5) == world.prompts(5) != other.prompts(5)
    assert again.sample(PROMPT, 20, draws()) == world.sample(PROMPT, 20, draws())
    assert again.preferences(20).to_list() == world.preferences(20).to_list() != other.preferences(20).to_list()
    assert again.pools(2, 10).to_list() == world.pools(2, 10).to_list() != other.pools(2, 10).to_list()


def test_fewer_prompts_are_the_first_of_more(world):
    assert world.prompts(3) == world.prompts(5)[:3]
    assert world.pools(1, 10).to_list() == world.pools(2, 10).to_list()[:1]


def test_splits_share_no_request(world):
    kept = {
        split: {(prompt.city, frozenset(prompt.topics)) for prompt in world.prompts(num, split)}
        for split, num in [("base", 1188), ("train", 3564), ("test", 1188)]
    }
    assert [len(requests) for requests in kept.values()] == [1188, 3564, 1188]
    assert len(set.union(*kept.values())) == 5940
    assert len(world.prompts(2000, "test")) == 2000


def test_few_of_many_samples_repeat(world):
    responses = world.sample(world.prompts(1)[0], 12_500, draws())
    assert len(set(responses)) > 0.99 * len(responses)
    words = [len(response.split()) for response in responses]
    assert 25 < sum(words) / len(words) < 45
    assert max(words) < 150


def test_a_lower_temperature_writes_fewer_oddities_and_long_runs_of_details(world):
    def rate(temperature):
        facts = [world.facts(PROMPT, text) for text in world.sample(PROMPT, 4000, draws(), temperature=temperature)]
        return sum(fact.oddities > 0 for fact in facts) / 4000, sum(fact.covered for fact in facts) / 4000

    cold, warm = rate(0.8), rate(1.0)
    assert cold[0] < 0.75 * warm[0]
    assert cold[1] > warm[1]
    with pytest.raises(ValueError, match="temperature"):
        world.sample(PROMPT, 1, draws(), temperature=0.0)


def test_oddities_of_every_kind_occur_and_none_is_common(world):
    from prudent.data._world_text import ODDITIES, all_sentences

    kinds = {sentence.text: sentence.index for sentence in all_sentences() if sentence.kind == "oddity"}
    responses = world.sample(PROMPT, 12_500, draws())
    found = Counter(
        kinds[text] for response in responses for text in response.replace(". ", ".|").split("|") if text in kinds
    )
    assert set(found) == set(range(len(ODDITIES)))
    assert max(found.values()) < 0.06 * 12_500


def test_labels_are_bradley_terry_with_flips(world):
    num = 3000
    clean, noisy = world.preferences(num, flip=0.0), world.preferences(num, flip=0.25)
    assert not any(clean["flipped"])
    share = sum(noisy["flipped"]) / num
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / num))
    # flips change who is chosen and nothing else
    for before, after in zip(clean, noisy, strict=True):
        swapped = before["chosen"] == after["rejected"] and before["rejected"] == after["chosen"]
        assert swapped == after["flipped"]
    # the chosen one wins as often as Bradley-Terry says
    contrast = torch.tensor(clean["gold_chosen"]) - torch.tensor(clean["gold_rejected"])
    expected = torch.sigmoid(contrast.abs())
    error = ((contrast > 0).double() - expected)[contrast != 0].mean()
    assert abs(error) < 4 * 0.5 / math.sqrt(num)


def test_properties_are_about_what_was_asked_and_the_rest(world):
    detail, oddity, opening, topic = (
        "Locals praise it at dawn.",
        "Insert the name here.",
        "A plan for Oslo.",
        "See the quiet bakery for food.",
    )
    facts = world.facts(PROMPT, f"{opening} {topic} {detail} {oddity}")
    assert facts.helpful == pytest.approx(0.9)
    assert facts.tidy == pytest.approx(0.4 - 1.2)


def test_the_true_reward_is_the_sum_of_two_properties(world):
    plain, both = world.pools(3, 20), world.pools(3, 20, properties=True)
    assert plain["responses"] == both["responses"]
    for row in both:
        parts = torch.tensor([row["gold_helpful"], row["gold_tidy"]])
        torch.testing.assert_close(parts.sum(0), torch.tensor(row["gold"]))
    pairs = {of: world.preferences(200, flip=0.0, of=of) for of in (None, "helpful", "tidy")}
    texts = [
        {tuple(sorted((c[0]["content"], r[0]["content"]))) for c, r in zip(one["chosen"], one["rejected"], strict=True)}
        for one in pairs.values()
    ]
    assert texts[0] == texts[1] == texts[2]
    for of in ("helpful", "tidy"):
        one = pairs[of]
        margins = torch.tensor(one["gold_chosen"]) - torch.tensor(one["gold_rejected"])
        assert (margins >= 0).double().mean() > 0.6
        # what pleases in one respect says little of the other
        assert one["gold_chosen"] != pairs[None]["gold_chosen"]


def test_data_is_canonical_and_does_not_leak(world):
    preferences = load_preferences(world.preferences(50))
    assert len(preferences) == 50
    pools = load_pools(world.pools(2, 20))
    assert [len(row["responses"]) for row in pools.rows] == [20, 20]
    row = next(iter(pools.rows))
    prompt = world.prompts(1)[0]
    assert row["prompt"] == prompt.messages
    assert row["gold"] == pytest.approx(world.golds(prompt, row["responses"]).tolist())
    check_leak(preferences, pools)


def test_tokenizer_gives_the_text_back(world):
    tokenizer = train_world_tokenizer(world, num_texts=500)
    texts = [prompt.text for prompt in world.prompts(20)] + world.sample(PROMPT, 50, draws())
    texts.append("Étrange, 1999 zebras? \n Ça va!")
    ids = [tokenizer(text)["input_ids"] for text in texts]
    assert [tokenizer.decode(row) for row in ids] == texts
    assert tokenizer.unk_token is None
    assert tokenizer.pad_token_id == 0
    assert tokenizer.eos_token_id == 1
    text = tokenizer.apply_chat_template(
        [*PROMPT.messages, {"role": "assistant", "content": "A plan for Oslo."}], tokenize=False
    )
    assert text == f"<user>{PROMPT.text}<assistant>A plan for Oslo.<eos>"
    assert tokenizer(text)["input_ids"][-1] == tokenizer.eos_token_id


def test_base_model_learns_and_loads_in_transformers(world, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    seen = []
    loss = pretrain_world_base(
        world, tmp_path, num_texts=1_000, num_epochs=1, tokens_per_batch=512, advance=seen.append
    )
    assert sum(seen) == 1_000
    assert loss < 5  # a uniform guess costs log(1,600) = 7.4
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.chat_template is not None
