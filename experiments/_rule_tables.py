"""Tables of the comparison of risk rules, from what was measured of each draw."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prudent.metrics import Interval, bootstrap, bootstrap_difference

Curves = dict[tuple[str, str, str, str], dict[str, Tensor]]
"""Gold `[B, L]` by scale, by posterior, view, rule and how its strength was set."""
Agreement = dict[tuple[str, str, str, str], tuple[Tensor, Tensor]]
"""By posterior, view and two rules: for each prompt the rank correlation, and whether the picks are the same."""


@dataclass(frozen=True)
class Measured:
    """All that is kept of a draw."""

    setting: str
    n_values: list[int]
    is_own: bool
    curves: Curves
    chosen: list[dict[str, Any]]
    agreement: Agreement


def together(draws: list[Measured]) -> Curves:
    """Curves of all draws of a setting: prompt by prompt averaged over seeds, or one world after the other."""
    return {
        key: {
            scale: (torch.cat if draws[0].is_own else lambda own: torch.stack(own).mean(0))(
                [draw.curves[key][scale] for draw in draws]
            )
            for scale in found
        }
        for key, found in draws[0].curves.items()
    }


def in_hindsight(curves: Curves, scale: str) -> Curves:
    """For each rule the strength that is best at the largest n on the very prompts that it is judged on: a bound."""
    best: Curves = {}
    for key, found in curves.items():
        if key[3].startswith("grid"):
            name = (*key[:3], "hindsight")
            if name not in best or float(found[scale][:, -1].nanmean()) > float(best[name][scale][:, -1].nanmean()):
                best[name] = found
    return {key: found for key, found in curves.items() if not key[3].startswith("grid")} | best


def curve_rows(setting: str, curves: Curves, n_values: list[int]) -> list[dict[str, Any]]:
    """Gold at every n, of strengths that need no look at the prompts judged; at the default only what has no dial."""
    rows = []
    scale = next(iter(next(iter(curves.values()))))
    for (posterior, view, rule, mode), found in curves.items():
        is_tuned = (posterior, view, rule, "calibrated") in curves
        if mode in ("calibrated", "matched", "") or (mode == "default" and not is_tuned):
            interval = bootstrap(found[scale])
            for place, n in enumerate(n_values):
                rows.append(
                    {
                        **_names(setting, posterior, view, rule, mode),
                        "gold": scale,
                        "n": n,
                        "value": float(interval.estimate[place]),
                        "low": float(interval.low[place]),
                        "high": float(interval.high[place]),
                    }
                )
    return rows


def final_rows(setting: str, curves: Curves) -> list[dict[str, Any]]:
    """Gold at the largest n, against the mean, and against lcb_var on the same variance with its strength set alike."""
    rows = []
    scales = list(next(iter(curves.values())))
    curves = in_hindsight(curves, scales[0])
    for (posterior, view, rule, mode), found in curves.items():
        for scale in scales:
            value = found[scale][:, -1]
            rivals = {
                "mean": curves["gaussian", "marginal", "mean", "default"],
                "lcb_var": curves.get((posterior, view, "lcb_var", mode)),
            }
            row = _names(setting, posterior, view, rule, mode) | {"gold": scale} | _figures("value", bootstrap(value))
            for name, rival in rivals.items():
                against = None if rival is None else bootstrap_difference(value, rival[scale][:, -1])
                row |= _figures(f"minus_{name}", against)
            rows.append(row)
    return rows


def _names(setting: str, posterior: str, view: str, rule: str, mode: str) -> dict[str, Any]:
    return {"setting": setting, "posterior": posterior, "variance": view, "rule": rule, "strength": mode}


def _figures(name: str, interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), "")
    return {name: float(interval.estimate), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}


def strength_rows(setting: str, draws: list[Measured]) -> list[dict[str, Any]]:
    """Strengths that halves of the prompts chose: median and range over draws and halves."""
    by_rule: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for draw in draws:
        for row in draw.chosen:
            by_rule.setdefault((row["posterior"], row["variance"], row["rule"]), []).append(row)
    rows = []
    for (posterior, view, rule), found in by_rule.items():
        strengths = torch.tensor([row["strength"] for row in found], dtype=torch.float64)
        rows.append(
            {
                "setting": setting,
                "posterior": posterior,
                "variance": view,
                "rule": rule,
                "default": found[0]["default"],
                "median": float(strengths.quantile(0.5)),
                "least": float(strengths.min()),
                "largest": float(strengths.max()),
                "median_one_error": float(torch.tensor([row["one_standard_error"] for row in found]).quantile(0.5)),
                "spread_of_means": float(torch.tensor([row["spread"] for row in found]).quantile(0.5)),
                "typical_std": float(torch.tensor([row["std"] for row in found]).quantile(0.5)),
            }
        )
    return rows


def agreement_rows(setting: str, draws: list[Agreement]) -> list[dict[str, Any]]:
    rows = []
    for key in draws[0]:
        correlation, same = (torch.cat([found[key][part] for found in draws]) for part in (0, 1))
        rows.append(
            {
                "setting": setting,
                **dict(zip(("posterior", "variance", "rule", "other"), key, strict=True)),
                "rank_correlation": float(correlation.nanmean()),
                "smallest": float(correlation.nanquantile(0.0)),
                "same_pick": float(same.mean()),
            }
        )
    return rows


def grid_rows(setting: str, curves: Curves) -> list[dict[str, Any]]:
    """Gold at the largest n at every strength that was tried, mild ones first."""
    rows = []
    scale = next(iter(next(iter(curves.values()))))
    for (posterior, view, rule, mode), found in curves.items():
        if mode.startswith("grid"):
            interval = bootstrap(found[scale][:, -1])
            rows.append(
                {
                    "setting": setting,
                    "posterior": posterior,
                    "variance": view,
                    "rule": rule,
                    "place": int(mode.removeprefix("grid ")),
                    "value": float(interval.estimate),
                    "low": float(interval.low),
                    "high": float(interval.high),
                }
            )
    return rows
