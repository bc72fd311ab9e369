"""What `prudent align` says of a run."""

from typing import TYPE_CHECKING

from prudent.cli._console import table

if TYPE_CHECKING:
    from prudent.alignment.rlhf import AlignSummary

__all__ = ["told_of"]


def told_of(summary: "AlignSummary") -> str:
    """Figures before and after, and the advice about stopping."""
    names = {
        "proxy": "proxy",
        "gold": "gold",
        "kl": "KL",
        "length": "tokens",
        "gold_below_reference": "below reference",
    }
    known = {name: label for name, label in names.items() if summary.end[name] is not None}
    rows = [[word, *(row[name] for name in known)] for word, row in (("start", summary.start), ("end", summary.end))]
    verb = "had aligned" if summary.already_finished else "aligned"
    took = f"{summary.num_steps:,} steps and {summary.seconds:.0f} s"
    told = f"{verb} {summary.policy} in {took}; policy in {summary.output}"
    remarks = {
        f"resumed from step {summary.resumed_from_step}": summary.resumed_from_step,
        f"{summary.num_skipped:,} rows skipped as not valid or too long": summary.num_skipped,
        f"{summary.num_without_references:,} prompts without references, which gave no signal": (
            summary.num_without_references
        ),
    }
    lines = [
        "; ".join([told, *(remark for remark, holds in remarks.items() if holds)]),
        table([f"{summary.num_monitor_prompts} held-out prompts", *known.values()], rows),
    ]
    if summary.advice is not None:
        place = "" if summary.best_checkpoint is None else f", in {summary.best_checkpoint}"
        lines.append(f"{summary.advice.text}{place}")
    return "\n".join(lines)
