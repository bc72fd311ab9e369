"""What `prudent overopt` prints."""

from typing import TYPE_CHECKING

from prudent.cli._console import table

if TYPE_CHECKING:
    from prudent.evaluation import Estimate, Overoptimization
    from prudent.sampling import SampleSummary

__all__ = ["left_out_in_sampling", "told"]


def left_out_in_sampling(summary: "SampleSummary") -> str | None:
    """What --skip-bad left out of the prompts; None where that is nothing."""
    if not summary.num_skipped:
        return None
    return f"{summary.num_skipped:,} rows of the prompts were left out before sampling, as not valid or too long."


def told(found: "Overoptimization", scale: str) -> str:
    """The verdict on each proxy, as a table, and what must be known of it."""
    rows: list[list[object]] = []
    for key, study in found.studies.items():
        verdict, rescue = study.verdicts[scale], study.verdicts[scale].rescue
        hacked = "one prompt is too few to say" if verdict.p_value is None else "no sign"
        # sure on all prompts, and for those that did not choose it
        helps = rescue is not None and rescue.ahead.low > 0 and rescue.held_out.low > 0
        rows.append(
            [
                key,
                study.counts.num_prompts,
                study.settings.num_seeds,
                study.curves[0].label,
                "yes" if verdict.hacked else hacked,
                verdict.peak_n,
                verdict.from_n,
                _interval(verdict.drop),
                rescue.key if rescue is not None and helps else "none surely",
                None if rescue is None else _interval(rescue.held_out),
            ]
        )
    found_of = ["proxy", "prompts", "seeds", "optimized", "hacked", "best n", "falls from n", "fall to the end"]
    lines = [table([*found_of, "best instead", "ahead, on other prompts"], rows)]
    keys_of: dict[str, list[str]] = {}
    for key, study in found.studies.items():
        for note in study.notes:
            keys_of.setdefault(note, []).append(key)
    for note, keys in keys_of.items():
        lines.append(note if len(keys) == len(found.studies) else f"{', '.join(keys)}: {note}")
    return "\n".join(lines)


def _interval(one: "Estimate") -> str:
    return f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}]"
