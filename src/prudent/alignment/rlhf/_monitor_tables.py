"""What the held-out prompts say of each step: a row a completion, and from these a row a step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prudent.alignment._early_stop import prompt_means
from prudent.models import atomic_file

__all__ = ["MonitorTables", "monitor_row"]

_SAMPLES = pa.schema(
    [
        ("step", pa.int32()),
        ("prompt_id", pa.int32()),
        ("completion_id", pa.int32()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("num_tokens", pa.int32()),
        ("is_empty", pa.bool_()),
        ("is_cut", pa.bool_()),
        ("reward_mean", pa.float64()),
        ("reward_std", pa.float64()),
        ("value", pa.float64()),
        ("gold", pa.float64()),
        ("kl", pa.float64()),
        ("log_ratio", pa.float64()),
    ]
)
_MONITOR = pa.schema(
    [
        ("step", pa.int32()),
        ("arm", pa.string()),
        ("utility", pa.string()),
        ("algorithm", pa.string()),
        ("kl_coef", pa.float64()),
        ("seed", pa.int64()),
        *(
            (name, pa.float64())
            for name in (
                "proxy",
                "proxy_standard_error",
                "value",
                "reward_std",
                "gold",
                "gold_standard_error",
                "proxy_below_reference",
                "gold_below_reference",
                "kl",
                "kl_standard_error",
                "log_ratio",
                "log_ratio_standard_error",
                "length",
                "share_empty",
                "share_cut",
            )
        ),
        ("num_prompts", pa.int32()),
        ("num_completions", pa.int32()),
    ]
)


class MonitorTables:
    """`monitor.parquet` and `samples.parquet` of a run, each written as a whole.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._monitor_file = folder / "monitor.parquet"
        self._samples_file = folder / "samples.parquet"
        self.monitor = _MONITOR.empty_table()
        self.samples = _SAMPLES.empty_table()

    def resume(self, step: int) -> None:
        """Take up what an earlier session, or another process, wrote until a step."""
        if self._monitor_file.exists() and self._samples_file.exists():
            self.monitor = _until(pq.read_table(self._monitor_file, schema=_MONITOR), step)
            self.samples = _until(pq.read_table(self._samples_file, schema=_SAMPLES), step)

    def add(self, samples: Sequence[Mapping[str, Any]], labels: Mapping[str, Any]) -> dict[str, Any]:
        """Add a step's completions, and write both tables.

        Args:
            samples: the completions, one mapping each, of one step.
            labels: arm, utility, algorithm, kl_coef and seed.

        Returns:
            The step's row.
        """
        added = pa.Table.from_pylist(list(samples), schema=_SAMPLES)
        self.samples = pa.concat_tables([self.samples, added])
        row = {**labels, **monitor_row(added, self.samples)}
        self.monitor = pa.concat_tables([self.monitor, pa.Table.from_pylist([row], schema=_MONITOR)])
        # The samples first: a row without them could not be looked into.
        for path, table in ((self._samples_file, self.samples), (self._monitor_file, self.monitor)):
            with atomic_file(path) as temporary:
                pq.write_table(table, temporary)
        return row

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of all steps."""
        found: list[dict[str, Any]] = self.monitor.to_pylist()
        return found


def monitor_row(samples: pa.Table, first: pa.Table) -> dict[str, Any]:
    """Figures of one step.

    Means are over completions. Standard errors are over prompts, whose completions belong together (ddof 1; None for a
    single prompt). A completion is below the reference if its reward is below the average of those to its prompt at
    step 0, when the policy was the reference.

    Args:
        samples: completions of the step, columns as in `samples.parquet`.
        first: completions that hold those of step 0 to the same prompts.

    Returns:
        Figures by name; None for what is not known.
    """
    import pyarrow.compute as pc

    start = first.filter(pc.equal(first["step"], 0))
    prompt, first_prompt = _numbers(samples, "prompt_id"), _numbers(start, "prompt_id")
    row: dict[str, Any] = {
        "step": samples["step"][0].as_py(),
        "proxy": _mean(_numbers(samples, "reward_mean")),
        "proxy_standard_error": _standard_error(_numbers(samples, "reward_mean"), prompt),
        "value": _mean(_numbers(samples, "value")),
        "reward_std": _mean(_numbers(samples, "reward_std")),
        "gold": _mean(_numbers(samples, "gold")),
        "gold_standard_error": _standard_error(_numbers(samples, "gold"), prompt),
        "length": _mean(_numbers(samples, "num_tokens")),
        "share_empty": _mean(_numbers(samples, "is_empty")),
        "share_cut": _mean(_numbers(samples, "is_cut")),
        "num_prompts": len(np.unique(prompt)),
        "num_completions": len(prompt),
    }
    for name, column in (("proxy_below_reference", "reward_mean"), ("gold_below_reference", "gold")):
        reference = prompt_means(_numbers(start, column), first_prompt)
        levels = np.array([reference.get(int(number), np.nan) for number in prompt])
        values = _numbers(samples, column)
        row[name] = _mean(np.where(np.isnan(values) | np.isnan(levels), np.nan, values < levels))
    for name in ("kl", "log_ratio"):
        row[name] = _mean(_numbers(samples, name))
        row[f"{name}_standard_error"] = _standard_error(_numbers(samples, name), prompt)
    return row


def _numbers(table: pa.Table, column: str) -> NDArray[np.float64]:
    """A column as float64, NaN where it is null."""
    return np.array(
        [np.nan if value is None else float(value) for value in table[column].to_pylist()], dtype=np.float64
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _standard_error(values: NDArray[np.float64], prompt: NDArray[np.float64]) -> float | None:
    means = np.array(list(prompt_means(values, prompt).values()))
    return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None


def _until(table: pa.Table, step: int) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.less_equal(table["step"], step))
