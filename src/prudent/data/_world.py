"""A small world whose true reward is known: prompts, a policy that answers them, and people who compare the answers.

A prompt asks for a plan of a day in a city with four topics. The policy writes a chain of short sentences: an opening,
sentences on topics, details (assurances that say little), and now and then an oddity, something that nobody asked for.
The true reward of a response is a known function of what it says; see `World.gold`. Two things in it make trouble for a
reward model, as they do in life:

- details are a shortcut: the first few please, each one beyond costs, and responses with many are rare in the labelled
  pairs, which are drawn from the policy at a lower temperature than the candidates;
- oddities are of many kinds, each too rare to be learnt from a few hundred noisy comparisons, and most of them bad:
  what a good policy seldom says is seldom good. Nothing in a Bradley-Terry model knows that.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Tensor

from prudent.data._world_policy import NUM_ASKED, WorldPolicy, WorldPrompt
from prudent.data._world_text import CITIES, ODDITIES, TOPICS, Sentence, all_sentences

__all__ = ["ResponseFacts", "World", "WorldProperty", "WorldSplit"]

WorldSplit = Literal["base", "train", "test"]
WorldProperty = Literal["helpful", "tidy"]

COVERED = 0.9
MENTIONED_AGAIN = -0.1
OFF_TOPIC = -0.4
WRONG_CITY = -1.0
DETAIL_PAYS = 0.4
DETAILS_THAT_PAY = 3
DETAIL_COSTS = -0.4
REPEATED = -0.6
UNKNOWN = -0.5

_SPLIT_SHARES = {"base": 0.2, "train": 0.6, "test": 0.2}
_SENTENCE_END = re.compile(r"(?<=\.)\s+")


@dataclass(frozen=True)
class ResponseFacts:
    """What a response says, counted; `World.gold` is a function of these alone.

    Attributes:
        covered: asked topics with at least one sentence.
        again: further sentences on a topic already covered.
        off_topic: sentences on topics not asked for.
        wrong_city: openings that name another city.
        details: sentences that assure without informing.
        oddities: sentences that nobody asked for, of any kind.
        oddity_value: what those are worth together.
        repeated: sentences that stood in the response before, word for word.
        unknown: sentences that the world does not know.
    """

    covered: int
    again: int
    off_topic: int
    wrong_city: int
    details: int
    oddities: int
    oddity_value: float
    repeated: int
    unknown: int

    @property
    def gold(self) -> float:
        """The true reward; see `World.gold`."""
        paid = min(self.details, DETAILS_THAT_PAY)
        return (
            COVERED * self.covered
            + MENTIONED_AGAIN * self.again
            + OFF_TOPIC * self.off_topic
            + WRONG_CITY * self.wrong_city
            + DETAIL_PAYS * paid
            + DETAIL_COSTS * (self.details - paid)
            + self.oddity_value
            + REPEATED * self.repeated
            + UNKNOWN * self.unknown
        )

    @property
    def helpful(self) -> float:
        """The part of the true reward that is about what was asked for: topics, and the city."""
        return (
            COVERED * self.covered
            + MENTIONED_AGAIN * self.again
            + OFF_TOPIC * self.off_topic
            + WRONG_CITY * self.wrong_city
        )

    @property
    def tidy(self) -> float:
        """The rest of it: details, oddities, repetitions and what is not of this world."""
        return self.gold - self.helpful


class World:
    """Prompts, a policy, people and the truth, all fixed by a seed.

    Args:
        seed: of the prompts, the samples and the labels, and of which oddities are the less rare ones.

    Example:
        >>> world = World(seed=0)
        >>> prompt = world.prompts(1)[0]
        >>> response = world.sample(prompt, 1, torch.Generator().manual_seed(0))[0]
        >>> world.gold(prompt, response) == world.facts(prompt, response).gold
        True
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        sentences = all_sentences()
        self._by_text = {sentence.text: sentence for sentence in sentences}
        rank = torch.randperm(len(ODDITIES), generator=self.generator("oddities"))
        self._policy = WorldPolicy(sentences, (1.0 + rank).pow(-0.7).double())

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh generator for one purpose; different purposes and seeds draw independently."""
        digest = hashlib.sha256(f"world {self.seed}: {purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def prompts(self, num: int, split: WorldSplit = "test") -> list[WorldPrompt]:
        """The first prompts of a split.

        No city with the same four topics is in two splits. A split holds 1,188 (`base`, `test`) or 3,564 (`train`)
        prompts and begins again, topics in another order, where more are asked for.

        Args:
            num: how many.
            split: `base` for the text that the proxy's base model reads, `train` for preferences, `test` for pools.

        Example:
            >>> World().prompts(1)[0].text
            'Plan a day in Prague with sports, music, transport and museums.'
        """
        choices = [
            (city, topics) for city in range(len(CITIES)) for topics in combinations(range(len(TOPICS)), NUM_ASKED)
        ]
        order = torch.randperm(len(choices), generator=self.generator("splits")).tolist()
        start = 0
        for name, share in _SPLIT_SHARES.items():
            size = round(share * len(choices))
            if name == split:
                order = order[start : start + size]
                break
            start += size
        generator = self.generator(f"prompts {split}")
        prompts = []
        for position in range(num):
            city, topics = choices[order[position % len(order)]]
            shuffled = torch.randperm(NUM_ASKED, generator=generator).tolist()
            prompts.append(WorldPrompt(city, tuple(topics[place] for place in shuffled)))
        return prompts

    def sample(
        self, prompt: WorldPrompt, num: int, generator: torch.Generator, *, temperature: float = 1.0
    ) -> list[str]:
        """Responses of the policy to a prompt.

        Args:
            prompt: what is asked for.
            num: how many responses.
            generator: source of the draws.
            temperature: every choice of a kind is made with probabilities to the power of `1 / temperature`.

        Returns:
            Texts of at most 15 sentences.

        Raises:
            ValueError: a temperature that is not positive.
        """
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        return self._policy.sample([prompt] * num, generator, temperature)

    def facts(self, prompt: WorldPrompt, response: str) -> ResponseFacts:
        """What a response to a prompt says, read from its text."""
        texts = [text for text in _SENTENCE_END.split(response.strip()) if text]
        sentences = [self._by_text.get(text, Sentence(text, "detail", -1)) for text in texts]
        known = [sentence for sentence in sentences if sentence.index >= 0]
        topics = [sentence.index for sentence in known if sentence.kind == "topic"]
        asked = [topic for topic in topics if topic in prompt.topics]
        oddities = [sentence.index for sentence in known if sentence.kind == "oddity"]
        return ResponseFacts(
            covered=len(set(asked)),
            again=len(asked) - len(set(asked)),
            off_topic=len(topics) - len(asked),
            wrong_city=sum(sentence.kind == "opening" and sentence.index != prompt.city for sentence in known),
            details=sum(sentence.kind == "detail" for sentence in known),
            oddities=len(oddities),
            oddity_value=sum(ODDITIES[index][0] for index in oddities),
            repeated=len(texts) - len(set(texts)),
            unknown=len(sentences) - len(known),
        )

    def gold(self, prompt: WorldPrompt, response: str) -> float:
        """The true reward of a response, in logits of a noiseless comparison.

        0.9 for each asked topic covered, -0.1 for each further sentence on one, -0.4 for each on another topic, -1 for
        a wrong city, 0.4 for each of the first three details and -0.4 for each beyond (the shortcut), what the
        oddities are worth (from -1.6 to 0.6 each), -0.6 for each sentence repeated word for word and -0.5 for each
        that is not of this world.
        """
        return self.facts(prompt, response).gold

    def golds(self, prompt: WorldPrompt, responses: Sequence[str]) -> Tensor:
        """True rewards `[n]` float64 of responses to one prompt."""
        return torch.tensor([self.gold(prompt, response) for response in responses], dtype=torch.float64)

    def _worth(self, prompt: WorldPrompt, response: str, of: WorldProperty | None) -> float:
        """The true reward, or the part of it that a property is."""
        facts = self.facts(prompt, response)
        return facts.gold if of is None else facts.helpful if of == "helpful" else facts.tidy

    def preferences(
        self,
        num_pairs: int,
        *,
        flip: float = 0.25,
        temperature: float = 0.8,
        split: WorldSplit = "train",
        of: WorldProperty | None = None,
    ) -> Dataset:
        """Comparisons by people: two responses to a prompt, labelled by Bradley-Terry on the true reward.

        Args:
            num_pairs: how many.
            flip: probability that a label is turned round after it was drawn.
            temperature: of the policy that wrote the responses.
            split: of the prompts.
            of: compare by one property alone, `helpful` (the topics and the city asked for) or `tidy` (all the rest);
                the responses are the same. By default by the whole true reward, their sum.

        Returns:
            Columns `prompt`, `chosen`, `rejected` (message lists), and `gold_chosen`, `gold_rejected`, `flipped`, which
            no reward model may read.
        """
        generator = self.generator(f"preferences {split}")
        prompts = self.prompts(num_pairs, split)
        first = self._policy.sample(prompts, generator, temperature)
        second = self._policy.sample(prompts, generator, temperature)
        while same := [row for row in range(num_pairs) if first[row] == second[row]]:
            drawn = self._policy.sample([prompts[row] for row in same], generator, temperature)
            for row, text in zip(same, drawn, strict=True):
                second[row] = text
        draws = torch.rand(num_pairs, 2, generator=generator, dtype=torch.float64).tolist()
        rows: list[dict[str, Any]] = []
        for prompt, *pair, (draw, flip_draw) in zip(prompts, first, second, draws, strict=True):
            gold = [self._worth(prompt, text, of) for text in pair]
            first_is_better = draw < 1 / (1 + math.exp(gold[1] - gold[0]))
            flipped = flip_draw < flip
            chosen = int(first_is_better == flipped)
            rows.append(
                {
                    "prompt": prompt.messages,
                    "chosen": [{"role": "assistant", "content": pair[chosen]}],
                    "rejected": [{"role": "assistant", "content": pair[1 - chosen]}],
                    "gold_chosen": gold[chosen],
                    "gold_rejected": gold[1 - chosen],
                    "flipped": flipped,
                }
            )
        return Dataset.from_list(rows)

    def pools(
        self, num_prompts: int, num_candidates: int, *, split: WorldSplit = "test", properties: bool = False
    ) -> Dataset:
        """Candidates for best-of-n with their true rewards.

        Args:
            num_prompts: B.
            num_candidates: n, for each prompt.
            split: of the prompts.
            properties: also the true reward of each property, `gold_helpful` and `gold_tidy`, whose sum is `gold`.

        Returns:
            B rows with `prompt` (message list), `responses` and `gold` (lists of n).
        """
        generator = self.generator(f"pools {split}")
        rows: list[dict[str, Any]] = []
        for prompt in self.prompts(num_prompts, split):
            responses = self.sample(prompt, num_candidates, generator)
            gold = self.golds(prompt, responses).tolist()
            row = {"prompt": prompt.messages, "responses": responses, "gold": gold}
            if properties:
                facts = [self.facts(prompt, response) for response in responses]
                row |= {"gold_helpful": [one.helpful for one in facts], "gold_tidy": [one.tidy for one in facts]}
            rows.append(row)
        return Dataset.from_list(rows)
