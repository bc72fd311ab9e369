"""Time of the unbiased best-of-n curve on pools of the size that papers use.

    python benchmarks/curves.py [--prompts 1000] [--candidates 12500] [--threads 2] [--repeats 5] [--json]

Four pools of equal size: utilities that never tie, utilities rounded so that most of them tie, prompts with different
numbers of candidates, and prompts that are not stored one after the other. Each result is checked in the same run, on a
few prompts, against binomials in whole numbers. The first call of each is not timed; the median of the others is shown.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from prudent.selection import best_of_n_curve, best_of_n_kl_with_ties

N_VALUES = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765, 12_500)


def exact_curve(utility: Tensor, value: Tensor, n: int) -> float:
    """Expected value of the best of n of one prompt, from integers: P(max <= level) = C(below, n) / C(N, n)."""
    size = len(utility)
    if n > size:
        return math.nan
    order = torch.argsort(utility)
    u, v = utility[order].tolist(), value[order].double().tolist()
    # C(i, n) for i = n .. size by one product each
    counts = [0] * (size + 1)
    counts[n] = 1
    for i in range(n + 1, size + 1):
        counts[i] = counts[i - 1] * i // (i - n)
    total, start = 0.0, 0
    while start < size:
        end = start + 1
        while end < size and u[end] == u[start]:
            end += 1
        if end >= n:
            share = (counts[end] - counts[start]) / counts[size]  # of integers: rounded once
            total += share * math.fsum(v[start:end]) / (end - start)
        start = end
    return total


def pools(num_prompts: int, num_candidates: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Utility, value and group of each pool."""
    generator = torch.Generator().manual_seed(0)
    size = num_prompts * num_candidates
    utility, value = torch.randn(2, size, generator=generator)
    group = torch.arange(num_prompts).repeat_interleave(num_candidates)
    spread = torch.randint(num_candidates // 2, num_candidates + 1, (num_prompts,), generator=generator)
    ragged = torch.arange(num_prompts).repeat_interleave(spread)
    order = torch.randperm(size, generator=generator)
    return {
        "continuous": (utility, value, group),
        "tied": ((utility * 100).round(), value, group),
        "ragged": (utility[: len(ragged)], value[: len(ragged)], ragged),
        "scattered": (utility, value, group[order]),
    }


def median_seconds(call: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Median time of warm calls, and the result."""
    result = call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def largest_error(curve: Tensor, utility: Tensor, value: Tensor, group: Tensor, checked: tuple[int, ...]) -> float:
    """Largest deviation from whole-number binomials over the first and last prompt."""
    worst = 0.0
    for prompt in (0, len(curve) - 1):
        mine = group == prompt
        for n in checked:
            exact = exact_curve(utility[mine], value[mine], n)
            got = curve[prompt, N_VALUES.index(n)].item()
            if math.isnan(exact) != math.isnan(got):
                return math.inf
            worst = max(worst, 0.0 if math.isnan(exact) else abs(got - exact))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=12_500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    rows = []
    for name, (utility, value, group) in pools(arguments.prompts, arguments.candidates).items():
        seconds, curve = median_seconds(
            lambda u=utility, v=value, g=group: best_of_n_curve(u, v, g, N_VALUES), arguments.repeats
        )
        error = largest_error(curve, utility, value, group, (1, 2, 34, 987))
        kl_seconds, _ = median_seconds(
            lambda u=utility, g=group: best_of_n_kl_with_ties(u, g, N_VALUES).kl, arguments.repeats
        )
        rows.append({"pool": name, "curve_seconds": seconds, "largest_error": error, "kl_seconds": kl_seconds})
        if not error < 1e-9:
            raise SystemExit(f"the curve of the {name} pool is off by {error}")

    setting = {
        "prompts": arguments.prompts,
        "candidates": arguments.candidates,
        "n_values": len(N_VALUES),
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "torch": torch.__version__,
    }
    if arguments.json:
        print(json.dumps({**setting, "pools": rows}))
        return
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    print(f"{'pool':<12}{'curve':>10}{'KL':>10}{'largest error':>16}")
    for row in rows:
        print(
            f"{row['pool']:<12}{row['curve_seconds']:>8.2f} s{row['kl_seconds']:>8.2f} s{row['largest_error']:>16.1e}"
        )


if __name__ == "__main__":
    main()
