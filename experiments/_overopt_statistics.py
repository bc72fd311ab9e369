"""Statistics of gold curves over worlds.

A world has prompts, labels and proxies of its own, so worlds are the units: a curve is averaged over the prompts and
seeds of each world, and what varies within worlds is in how these averages vary. They are few, so their mean is drawn
by Student's t. One set of draws serves all curves, so that differences are paired.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_RESAMPLES = 20_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with a percentile interval, and the one-sided p-value of "it is not above 0"."""

    value: float
    low: float
    high: float
    p_value: float

    def row(self) -> dict[str, float]:
        """Columns of a table."""
        return {"value": self.value, "low": self.low, "high": self.high, "p_value": self.p_value}


class Worlds:
    """Draws of the mean curve of worlds like those that were measured; drawn once.

    Curves are `[W, S, B, ...]`: W worlds, S seeds of each, B prompts of each; S may differ between curves. A draw is
    the mean of the worlds' averages, plus how far off the mean of W may be: Student's t with W - 1 degrees of freedom
    times its standard error, where the averages are normal. A single world says nothing of others; its prompts are
    the units then, and intervals are those of further prompts for the same proxies.

    Args:
        num_worlds: W.
        num_prompts: B.
        num_resamples: R.
        seed: of the draws.
    """

    def __init__(self, num_worlds: int, num_prompts: int, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> None:
        self._num_units = num_worlds if num_worlds > 1 else num_prompts
        if self._num_units < 2:
            raise ValueError("one prompt of one world has no interval")
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(num_resamples, *shape, dtype=torch.float64, generator=generator)

        across = normal(self._num_units)
        squares = normal(self._num_units - 1).square().sum(1, keepdim=True)
        self._errors = (across - across.mean(1, keepdim=True)) / (self._num_units * squares).sqrt()
        self._normal = normal(self._num_units, self._num_units) / (self._num_units - 1) ** 0.5

    def _units(self, curves: Tensor) -> Tensor:
        """`[U, ...]` averages of each world, or of each prompt of a single one."""
        by_prompt = curves.double().mean(1)
        return by_prompt.mean(1) if len(curves) > 1 else by_prompt[0]

    def means(self, curves: Tensor) -> Tensor:
        """Drawn means `[R, ...]` of curves `[W, S, B, ...]`."""
        units = self._units(curves)
        return units.mean(0) + torch.tensordot(self._errors, units, 1)

    def estimate(self, statistic: Callable[..., Tensor], *curves: Tensor) -> Estimate:
        """A function of mean curves `[..., L] -> [...]`, with its interval; draws that are not finite are left out."""
        value = statistic(*(one.double().mean((0, 1, 2)) for one in curves))
        draws = statistic(*(self.means(one) for one in curves))
        return interval(float(value), draws)

    def each(self, curves: Tensor) -> list[Estimate]:
        """The mean at every n."""
        draws = self.means(curves)
        values = curves.double().mean((0, 1, 2)).tolist()
        return [interval(value, draws[:, place]) for place, value in enumerate(values)]

    def peak_test(self, curves: Tensor) -> tuple[Estimate, int]:
        """Gold at the peak minus gold at the largest n, and the peak's place on the grid.

        The p-value is that of "no n beats the largest one": the largest fall over its own standard error, against the
        same of normal worlds that vary as these do and do not fall. The maximum over n is taken in every draw too,
        which pays for the search.
        """
        falls = self._units(curves[..., :-1] - curves[..., -1:])
        mean = falls.mean(0)
        moving = falls.std(0) > 0
        p_value = 1.0
        if bool(moving.any()):
            deviations = (falls - mean)[:, moving]
            largest = _over_error(falls[:, moving]).max()
            null = _over_error(self._normal @ deviations).amax(-1)
            p_value = float((1 + (null >= largest).sum()) / (1 + len(null)))
        drawn = self.means(curves)
        average = curves.double().mean((0, 1, 2))
        peak = int(average.argmax())
        found = interval(float(average[peak] - average[-1]), drawn[:, peak] - drawn[:, -1])
        return Estimate(found.value, found.low, found.high, p_value), peak


def _over_error(units: Tensor) -> Tensor:
    """Means of `[..., U, L]` over units, each divided by its standard error: `[..., L]`."""
    return units.mean(-2) / (units.std(-2) / units.shape[-2] ** 0.5)


def interval(value: float, draws: Tensor) -> Estimate:
    """The percentile interval of draws `[R]`."""
    finite = draws[draws.isfinite()]
    if len(finite) < 2:
        return Estimate(value, float("nan"), float("nan"), float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(finite, torch.tensor([tail, 1 - tail], dtype=finite.dtype)).tolist()
    return Estimate(value, low, high, float((1 + (finite <= 0).sum()) / (1 + len(finite))))


def end(curve: Tensor) -> Tensor:
    """Gold at the largest n."""
    return curve[..., -1]


def kept(curve: Tensor) -> Tensor:
    """Share of the best gain over n = 1 that is left at the largest n; NaN where there never was a gain."""
    best = curve.amax(-1) - curve[..., 0]
    return torch.where(best > 0, (curve[..., -1] - curve[..., 0]) / best, torch.nan)


def lead(first: Tensor, second: Tensor) -> Tensor:
    """Gold of one over another at the largest n."""
    return first[..., -1] - second[..., -1]


def tuned(
    curves: Sequence[Tensor],
    *,
    place: int = -1,
    num_splits: int = 20,
    seed: int = 0,
    others: Mapping[str, Sequence[Tensor]] | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The curve of the strength that half of the prompts of every world choose, on the prompts of the other half.

    Args:
        curves: by strength, each `[W, S, B, L]`. All seeds of all worlds choose one strength together.
        place: of the n on the grid at which gold is compared.
        num_splits: random halves; each half chooses for the other.
        seed: of the halves.
        others: further curves by strength that take the same choice, such as the shuffled control.

    Returns:
        The curve `[W, S, B, L]`, averaged over splits; the share of choices of each strength; the others' curves.
    """
    stacked = torch.stack([one.double() for one in curves])
    more = {name: torch.stack([one.double() for one in own]) for name, own in (others or {}).items()}
    total = {"": torch.zeros_like(stacked[0])} | {name: torch.zeros_like(own[0]) for name, own in more.items()}
    count = stacked.shape[3]
    chosen = torch.zeros(len(curves), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_splits):
        order = torch.randperm(count, generator=generator)
        halves = order[: count // 2], order[count // 2 :]
        for choosing, judged in (halves, halves[::-1]):
            best = int(stacked[:, :, :, choosing, place].mean((1, 2, 3)).argmax())
            chosen[best] += 1
            total[""][:, :, judged] += stacked[best][:, :, judged]
            for name, own in more.items():
                total[name][:, :, judged] += own[best][:, :, judged]
    averaged = {name: one / num_splits for name, one in total.items()}
    return averaged.pop(""), chosen / chosen.sum(), averaged
