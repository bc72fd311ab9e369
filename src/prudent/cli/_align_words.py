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
        "share_cut": "cut",
    }
    known = {name: label for name, label in names.items() if summary.end[name] is not None}
    rows = [[word, *(row[name] for name in known)] for word, row in (("start", summary.start), ("end", summary.end))]
    took = f"{summary.num_steps:,} step{'' if summary.num_steps == 1 else 's'} and {summary.seconds:.0f} s"
    told = f"aligned {summary.policy} in {took}; policy in {summary.output}"
    if summary.already_finished:
        told = f"nothing was left to do (to do it again: --overwrite): {told}"
    remarks = {
        f"resumed from step {summary.resumed_from_step}": summary.resumed_from_step,
        f"{summary.num_skipped:,} rows skipped as not valid or too long": summary.num_skipped,
        f"{summary.num_without_references:,} of {summary.num_prompts:,} prompts without references, which gave no "
        "signal": summary.num_without_references,
    }
    alone = summary.num_monitor_prompts == 1
    lines = [
        "; ".join([told, *(remark for remark, holds in remarks.items() if holds)]),
        table([f"{summary.num_monitor_prompts} held-out prompt{'' if alone else 's'}", *known.values()], rows),
    ]
    if summary.advice is not None:
        place = "" if summary.best_checkpoint is None else f", in {summary.best_checkpoint}"
        lines.append(f"{summary.advice.text}{place}")
    if summary.no_advice is not None:
        lines.append(f"no advice about stopping: {summary.no_advice}")
    if summary.end["share_cut"] > 0.5:
        lines.append(
            f"{summary.end['share_cut']:.0%} of the completions at the end were cut at "
            f"{summary.settings['max_completion_length']} tokens; raise --max-completion-length"
        )
    return "\n".join(lines)
