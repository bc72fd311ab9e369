"""The policy of the small world: a Markov chain over kinds of sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.data._world_text import CITIES, ODDITIES, TOPICS, Sentence

__all__ = ["NUM_ASKED", "WorldPolicy", "WorldPrompt"]

NUM_ASKED = 4

_MAX_SENTENCES = 14
_OPENS = 0.6
_RIGHT_CITY = 0.93
_ODDITY_AGAIN = 0.2

# Weights of what comes next; what is not eligible weighs nothing.
_ASKED = 0.55  # times the share of the asked topics still open
_COVERED_AGAIN = 0.06
_OTHER_TOPIC = 0.07
_DETAIL = 0.16
_DETAIL_AFTER_DETAIL = 0.28
_ODDITY = 0.03
_END = 0.16  # from the third sentence on
_END_WHEN_COVERED = 0.64


@dataclass(frozen=True)
class WorldPrompt:
    """What is asked for.

    Attributes:
        city: index into the cities.
        topics: four different indices into the topics, in the order asked.
    """

    city: int
    topics: tuple[int, ...]

    @property
    def text(self) -> str:
        """The request in words."""
        names = [tuple(TOPICS)[topic] for topic in self.topics]
        return f"Plan a day in {CITIES[self.city]} with {', '.join(names[:-1])} and {names[-1]}."

    @property
    def messages(self) -> list[dict[str, str]]:
        """The request as a conversation of one user message."""
        return [{"role": "user", "content": self.text}]


class WorldPolicy:
    """Writes responses to prompts.

    The chain chooses between an asked topic that is still open, one already covered, another topic, a detail, an oddity
    and the end. A detail makes another detail likelier, an oddity may bring another of its kind. What a sentence says
    within its kind is drawn uniformly.

    Args:
        sentences: all that can be said.
        oddity_share: `[kinds]` relative frequencies of the kinds of oddities.
    """

    def __init__(self, sentences: Sequence[Sentence], oddity_share: Tensor) -> None:
        self._texts = [sentence.text for sentence in sentences]
        self._oddity_share = oddity_share
        self._openings = _positions(sentences, "opening", len(CITIES))
        self._topics = _positions(sentences, "topic", len(TOPICS))
        self._details = _positions(sentences, "detail", 1)[0]
        self._oddities = _positions(sentences, "oddity", len(ODDITIES))

    def sample(self, prompts: Sequence[WorldPrompt], generator: torch.Generator, temperature: float) -> list[str]:
        """The text of one response to each prompt; see `World.sample`."""
        chain = self._chain(prompts, generator, temperature)
        return [" ".join([self._texts[position] for position in row if position >= 0]) for row in chain.tolist()]

    def _chain(self, prompts: Sequence[WorldPrompt], generator: torch.Generator, temperature: float) -> Tensor:
        """`[num, 15]` positions of sentences, -1 where there is none."""
        num = len(prompts)

        def among(size: int) -> Tensor:
            return torch.randint(size, (num,), generator=generator)

        def happens(probability: float) -> Tensor:
            powers = torch.tensor([probability, 1 - probability]).pow(1 / temperature)
            return torch.rand(num, generator=generator) < powers[0] / powers.sum()

        asked = torch.tensor([prompt.topics for prompt in prompts])
        rows = torch.arange(num)
        right_city = torch.tensor([prompt.city for prompt in prompts])
        city = torch.where(happens(_RIGHT_CITY), right_city, among(len(CITIES)))
        opening = self._openings[city, among(self._openings.shape[1])]
        columns = [torch.where(torch.rand(num, generator=generator) < _OPENS, opening, -1)]
        is_open = torch.ones(num, NUM_ASKED, dtype=torch.bool)
        is_alive = torch.ones(num, dtype=torch.bool)
        last = torch.zeros(num, dtype=torch.int64)
        oddity = torch.zeros(num, dtype=torch.int64)
        for step in range(_MAX_SENTENCES):
            weights = torch.stack(
                [
                    _ASKED * is_open.double().mean(1),
                    _COVERED_AGAIN * ~is_open.all(1),
                    torch.full((num,), _OTHER_TOPIC),
                    torch.where(last == 3, _DETAIL_AFTER_DETAIL, _DETAIL),
                    torch.full((num,), _ODDITY),
                    torch.where(is_open.any(1), _END, _END_WHEN_COVERED) * (step >= 2),
                ],
                dim=1,
            )
            probabilities = (weights / weights.sum(1, keepdim=True)).pow(1 / temperature)
            kind = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
            goes_on = (last == 4) & happens(_ODDITY_AGAIN)
            kind = torch.where(goes_on, 4, kind)
            fresh = torch.multinomial(self._oddity_share, num, replacement=True, generator=generator)
            oddity = torch.where(goes_on, oddity, fresh)
            eligible = torch.where((kind == 1).unsqueeze(1), ~is_open, is_open)
            slot = (torch.rand(num, NUM_ASKED, generator=generator) * eligible).argmax(1)
            topic = torch.where(kind == 2, among(len(TOPICS)), asked[rows, slot])
            choices = torch.stack(
                [
                    self._topics[topic, among(self._topics.shape[1])],
                    self._details[among(len(self._details))],
                    self._oddities[oddity, among(self._oddities.shape[1])],
                ]
            )
            is_alive = is_alive & (kind != 5)
            if not is_alive.any():
                break
            sentence = choices[(kind - 2).clamp(0, 2), rows]
            columns.append(torch.where(is_alive, sentence, -1))
            is_open = is_open & ~((kind <= 2).unsqueeze(1) & (topic.unsqueeze(1) == asked))
            last = kind
        return torch.stack(columns, dim=1)


def _positions(sentences: Sequence[Sentence], kind: str, num: int) -> Tensor:
    """`[num, size]` positions of the sentences of a kind, a row for each index."""
    rows: list[list[int]] = [[] for _ in range(num)]
    for position, sentence in enumerate(sentences):
        if sentence.kind == kind:
            rows[sentence.index].append(position)
    return torch.tensor(rows)
