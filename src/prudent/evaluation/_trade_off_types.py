"""What the plane of two rewards shows: small frozen records that turn into JSON and back."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Level", "TradeOff", "TradeOffLine"]

Level = Literal["references", "canned", "responses"]


@dataclass(frozen=True)
class TradeOffLine:
    """One utility in the picture.

    Attributes:
        label: what it is called.
        utility: as it is written.
        x: first reward of each pick that has both, relative to the prompt; at least one.
        y: the second reward.
        grid: its value at every point of the grid, row by row from the smallest y; None where a point has no value of
            its own, because the utility looks at the other responses, draws, or reads a reward that is missing.
    """

    label: str
    utility: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    grid: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class TradeOff:
    """Picks of several utilities in the plane of two rewards.

    Attributes:
        names: the two rewards.
        relative_to: what is subtracted from each of them: the mean over the prompt's `references`, the reward of the
            `canned` response, or the mean over all `responses` of the prompt.
        x: first reward of some responses.
        y: the second reward of the same.
        grid_x: where the grid stands on the first axis.
        grid_y: on the second.
        prompt_id: the prompt whose references and typical doubts the values on the grid are those of.
        lines: one a utility; those without a pick that has both rewards are left out.
    """

    names: tuple[str, str]
    relative_to: tuple[Level, Level]
    x: tuple[float, ...]
    y: tuple[float, ...]
    grid_x: tuple[float, ...]
    grid_y: tuple[float, ...]
    prompt_id: int
    lines: tuple[TradeOffLine, ...]
