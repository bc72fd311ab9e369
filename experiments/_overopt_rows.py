"""Results of the overoptimization experiments as rows: their columns, and what is said of every gold curve."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from _overopt_statistics import Estimate, Worlds, end, lead
from _overopt_statistics import kept as share_kept
from torch import Tensor


def schema(**own: pa.DataType) -> pa.Schema:
    """Columns of the rows: which proxies, by which rule, and what was found.

    Args:
        own: columns by which an experiment tells its proxies and rules apart, besides the share of labels turned round.
    """
    text, number = pa.string(), pa.float32()
    what = {"rule": text, "strength": text, "statistic": text, "n": pa.int32()}
    found = {"value": number, "low": number, "high": number, "p_value": number, "num_prompts": pa.int32()}
    return pa.schema(list({"flip": number, **own, **what, **found}.items()))


class Rows:
    """Rows of the proxies of one kind.

    Args:
        worlds: draws of their mean.
        n_values: grid of their curves, ascending.
        first: any of these curves, `[W, S, B, L]`.
        head: columns that are the same in all rows.
    """

    def __init__(self, worlds: Worlds, n_values: Sequence[int], first: Tensor, **head: Any) -> None:
        self._worlds = worlds
        self._n_values = n_values
        self._from_1024 = [place for place, n in enumerate(n_values) if n >= min(1024, n_values[-1])]
        self._head = {**head, "num_prompts": first.shape[0] * first.shape[2]}
        self.rows: list[dict[str, Any]] = []

    def add(self, statistic: str, found: Estimate, n: int | None = None, **what: Any) -> None:
        """One number; `what` are further columns, such as `rule` and `strength`."""
        self.rows.append(
            {"rule": "", "strength": "", **self._head, **what, "statistic": statistic, "n": n, **found.row()}
        )

    def end(self, curve: Tensor, **what: Any) -> None:
        """Gold at the largest n."""
        self.statistic("gold", end, curve, **what)

    def statistic(self, name: str, of: Callable[..., Tensor], *curves: Tensor, **what: Any) -> None:
        """A function of mean curves, stated at the largest n."""
        self.add(name, self._worlds.estimate(of, *curves), self._n_values[-1], **what)

    def gold(self, curve: Tensor, **what: Any) -> None:
        """Gold at every n."""
        for n, one in zip(self._n_values, self._worlds.each(curve), strict=True):
            self.add("gold", one, n, **what)

    def drop(self, curve: Tensor, **what: Any) -> None:
        """How far gold falls from its peak, at the n of the peak."""
        found, peak = self._worlds.peak_test(curve)
        self.add("drop", found, self._n_values[peak], **what)

    def kept(self, curve: Tensor, **what: Any) -> None:
        """Share of the best gain that is left at the largest n."""
        self.statistic("kept", share_kept, curve, **what)

    def curve(self, curve: Tensor, **what: Any) -> None:
        """Gold at every n, its fall, and what is left."""
        self.gold(curve, **what)
        self.drop(curve, **what)
        self.kept(curve, **what)

    def apart(self, name: str, curve: Tensor, other: Tensor, **what: Any) -> None:
        """Gold of one curve over another at the largest n."""
        self.statistic(name, lead, curve, other, **what)

    def leads(self, curve: Tensor, other: Tensor, over: str, **what: Any) -> None:
        """Gold of one curve over another at the largest n, and on average from n = 1,024 on."""
        self.apart(f"lead over {over}", curve, other, **what)
        first, second = (one[..., self._from_1024].mean(-1, keepdim=True) for one in (curve, other))
        self.apart(f"lead over {over}, n >= 1024", first, second, **what)


def share(value: float) -> Estimate:
    """A number without an interval."""
    return Estimate(value, *[float("nan")] * 3)
