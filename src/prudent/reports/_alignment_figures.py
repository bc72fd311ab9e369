"""Figures of aligned policies: what they gained against how far they moved, and what came with it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prudent.metrics import ScalingLaw, fit_scaling_law
from prudent.reports._alignment_arms import ArmCurves, Band
from prudent.reports._alignment_runs import AlignedRun
from prudent.reports._canvas import dress, legend, new_figure
from prudent.reports._diagrams import SERIES_MARKERS
from prudent.reports._extra import need
from prudent.reports._style import PALETTE, frame, wrapped

__all__ = ["POOR_LAW", "draw_beside", "draw_curves", "gold_law"]

_DISTANCE = "distance: square root of KL (nats) to the first policy"
_FEW_SEEDS = 3
"""Below this, Student's t says next to nothing, and the seeds themselves are drawn."""
_LAW_POINTS = 6
"""Looks that have moved, below which a law of two parameters is not fitted."""
POOR_LAW = 0.9
"""Share of the variation below which a law is told not to describe a curve, and not drawn."""
_LABEL = 56
"""Characters of a line of the legend, so that two labels fit side by side."""
_Of = Callable[[AlignedRun], NDArray[np.float64]]


def draw_curves(arms: Sequence[ArmCurves], *, gold: bool) -> Any:
    """Gains in gold above those in the proxy, against distance on the left and steps on the right."""
    names = ["gold", "proxy"] if gold else ["proxy"]
    figure = new_figure(11.0, 0.6 + 3.5 * len(names))
    axes = figure.subplots(len(names), 2, squeeze=False, sharey="row", sharex="col")
    for row, name in zip(axes, names, strict=True):
        bands = [arm.gains(name) for arm in arms]

        def own(run: AlignedRun, name: str = name) -> NDArray[np.float64]:
            return run.gains(name)

        limits = [_draw(row[0], arms, bands, own, far=True), _draw(row[1], arms, bands, own, far=False)]
        if name == "gold":
            _draw_laws(row[0], arms)
        _show_lines(row, limits)
        for one in row:
            one.axhline(0.0, color="#8a9097", linewidth=1, zorder=0)
        last = name == names[-1]
        dress(row[0], _DISTANCE if last else "", f"gain in {name}, held-out prompts")
        dress(row[1], "step" if last else "", "")
    legend(figure, axes[0][0], below=True)
    return figure


def draw_beside(arms: Sequence[ArmCurves], *, gold: bool) -> Any:
    """Shares below the reference, length, and the distance itself."""
    what = "gold" if gold else "proxy"
    figure = new_figure(11.0, 3.9)
    axes = figure.subplots(1, 3)
    for one, name, far in zip(axes, (f"{what}_below_reference", "length", "kl"), (True, True, False), strict=True):

        def own(run: AlignedRun, name: str = name) -> NDArray[np.float64]:
            return run.values(name)

        _show_lines([one], [_draw(one, arms, [arm.band(name) for arm in arms], own, far=far)])
    axes[0].yaxis.set_major_formatter(need("matplotlib.ticker").PercentFormatter(1.0))
    dress(axes[0], "distance", f"below the first policy, {what}")
    dress(axes[1], "distance", "tokens of a completion")
    dress(axes[2], "step", "KL to the first policy, nats")
    legend(figure, axes[0], below=True)
    return figure


def gold_law(arm: ArmCurves) -> ScalingLaw | None:
    """Gao et al.'s law of reinforcement learning, over an arm's average gains in gold; None with too few points."""
    distance = torch.from_numpy(arm.distance)
    if int((distance > 0).sum()) < _LAW_POINTS:
        return None
    return fit_scaling_law(distance.square(), torch.from_numpy(arm.gains("gold").mean), form="rl")


def _draw(axes: Any, arms: Sequence[ArmCurves], bands: Sequence[Band], own: _Of, *, far: bool) -> list[list[float]]:
    """Draw a line an arm, with its band against steps, or thin lines of its seeds; the values of both sorts."""
    lines: list[float] = []
    bounds: list[float] = []
    for place, (arm, band) in enumerate(zip(arms, bands, strict=True)):
        color, marker = PALETTE[place % len(PALETTE)][0], SERIES_MARKERS[place % len(SERIES_MARKERS)][0]
        at = arm.distance if far else np.array(arm.steps)
        axes.plot(
            at, band.mean, color=color, linewidth=2.2, marker=marker, markersize=4 if place else 3, label=_label(arm),
            linestyle="-" if any(run.is_finished for run in arm.runs) else (0, (4, 2)), zorder=3 - 0.01 * place,
        )  # fmt: skip
        lines += band.mean[np.isfinite(band.mean)].tolist()
        several = len(arm.runs) > 1
        # Seeds at one step are at different distances, and a policy may come back: no band over distances.
        thin = [] if not several or not (far or len(arm.seeds) < _FEW_SEEDS) else list(arm.runs)
        for run in (*thin, *(run for run in arm.unfinished if run not in arm.runs)):
            values = own(run)
            x = run.distance if far else np.array([row["step"] for row in run.rows])
            dashes = "-" if run.is_finished else (0, (2, 1.5))
            axes.plot(x, values, color=color, linewidth=0.8, alpha=0.4, linestyle=dashes, zorder=1)
            bounds += values[np.isfinite(values)].tolist()
        known = np.isfinite(band.low)
        if thin or not known.any():
            continue
        bounds += [*band.low[known].tolist(), *band.high[known].tolist()]
        if bool((np.diff(at) > 0).all()):
            axes.fill_between(at, band.low, band.high, color=color, alpha=0.13, linewidth=0, zorder=1)
        else:  # it would fold over itself
            axes.vlines(at, band.low, band.high, color=color, alpha=0.35, linewidth=1.4, zorder=1)
    return [lines, bounds]


def _draw_laws(axes: Any, arms: Sequence[ArmCurves]) -> None:
    first = True
    for place, arm in enumerate(arms):
        law = gold_law(arm)
        if law is None or float(law.r_squared) < POOR_LAW:
            continue
        x = torch.linspace(0.0, float(arm.distance.max()), 100, dtype=torch.float64)
        axes.plot(
            x, law.gain(x.square()), color=PALETTE[place % len(PALETTE)][0], linewidth=1.2, linestyle=(0, (1.2, 1.6)),
            label="law, d (\u03b1 \u2212 \u03b2 ln d)" if first else None, zorder=2,
        )  # fmt: skip
        first = False


def _show_lines(row: Sequence[Any], drawn: Sequence[list[list[float]]]) -> None:
    """Limits of axes that share a height, so that intervals do not press the lines flat."""
    lines, bounds = ([value for one in drawn for value in one[sort]] for sort in (0, 1))
    if lines and bounds and (limits := frame(lines, bounds)) is not None:
        row[0].set_ylim(*limits)


def _label(arm: ArmCurves) -> str:
    return wrapped(f"{arm.label} ({len(arm.seeds)} seeds)" if len(arm.seeds) > 1 else arm.label, "\n", _LABEL)
