"""What `prudent score` says when it is done."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prudent.cli._console import table

if TYPE_CHECKING:
    from prudent.scoring import ColumnsSummary, MembersSummary, ScoreSummary

__all__ = ["told_of_columns", "told_of_members", "told_of_models"]


def told_of_models(summary: "ScoreSummary") -> str:
    """A line on what was scored, below a row a reward where these have names."""
    text = f"{summary.num_responses:,} responses of {summary.num_prompts:,} prompts scored in {summary.output}"
    skipped = {f"{summary.num_skipped:,} pools skipped as not valid": summary.num_skipped}
    if summary.rewards:
        rows = [
            (name, one.posterior, one.num_truncated, one.num_prompt_truncated, one.num_not_scored)
            for name, one in summary.rewards.items()
        ]
        lines = table(("reward", "posterior", "responses cut", "prompts cut", "not scored"), rows)
        return "\n".join([lines, _with_remarks(text, skipped)])
    remarks = {
        "without variance, since the model has no posterior": summary.posterior == "none",
        f"{summary.num_truncated:,} responses cut": summary.num_truncated,
        f"{summary.num_prompt_truncated:,} prompts cut": summary.num_prompt_truncated,
        f"{summary.num_not_scored:,} not scored (reward not finite)": summary.num_not_scored,
    }
    return _with_remarks(text, {**remarks, **skipped})


def told_of_members(summary: "MembersSummary") -> str:
    """How each member was calibrated, what was written, and on what."""
    rows = [(one.name, one.accuracy, one.scale, one.nll_before, one.nll_after) for one in summary.members]
    lines = [table(("member", "accuracy", "scale", "nll before", "nll after"), rows)]
    counts = f"{summary.num_responses:,} responses of {summary.num_prompts:,} prompts"
    lines.append(f"{counts} with {len(summary.members)} members in {summary.output}")
    return "\n".join([*lines, *_calibrated_on(summary)])


def told_of_columns(summary: "ColumnsSummary") -> str:
    """Each reward with its column and calibration, what was written, and on what they were calibrated."""
    rows = [
        (
            name,
            one.column,
            one.num_not_scored,
            *([one.calibration.accuracy, one.calibration.scale] if one.calibration else [None, None]),
        )
        for name, one in summary.rewards.items()
    ]
    lines = [table(("reward", "column", "not scored", "accuracy", "scale"), rows)]
    lines.append(f"{summary.num_responses:,} responses of {summary.num_prompts:,} prompts in {summary.output}")
    return "\n".join([*lines, *_calibrated_on(summary)])


def _calibrated_on(summary: "MembersSummary | ColumnsSummary") -> list[str]:
    lines = []
    if summary.num_calibration_pairs:
        lines.append(f"calibrated on {summary.num_calibration_pairs:,} pairs")
        if summary.num_calibration_prompts:
            lines[0] += f" of {summary.num_calibration_prompts:,} prompts, which is_calibration marks"
    if summary.num_skipped:
        lines.append(f"{summary.num_skipped:,} rows skipped as not valid")
    return lines


def _with_remarks(text: str, remarks: Mapping[str, object]) -> str:
    return "; ".join([text, *(remark for remark, holds in remarks.items() if holds)])
