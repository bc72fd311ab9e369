"""Sentences on what the reader of a study must know."""

from collections.abc import Sequence

from prudent.evaluation._study_baselines import num_without_embedding
from prudent.evaluation._study_curves import Drawn
from prudent.evaluation._study_families import spread_within
from prudent.evaluation._study_seeds import Seed
from prudent.evaluation._study_tuning import FEWEST_PROMPTS
from prudent.evaluation._study_utilities import is_affine
from prudent.rewards import GaussianRewards
from prudent.utility import Entropic

__all__ = ["study_notes"]

_FEW_PROMPTS = 30
_FEW_SEEDS = 5
_FEW_CANDIDATES = 3.0


def study_notes(
    first: Seed, drawn: Sequence[Drawn], n_max: int, num_seeds: int, *, by_default: bool, baselines: bool
) -> list[str]:
    """What was left out or approximated, and what the numbers rest on.

    Args:
        first: the first seed.
        drawn: the curves.
        n_max: the largest n.
        num_seeds: of how many seeds curves are averages.
        by_default: whether nobody chose the utilities.
        baselines: whether those were asked for.
    """
    pool, rewards = first.pool, first.rewards
    notes = []
    if not pool.scales:
        notes.append("The file has no gold, so nothing here says whether a utility picks better responses.")
    elif pool.length is None:
        notes.append("The file has no column length: gold is not shown with length partialled out.")
    notes += _left_out(first)
    if count := pool.counts.num_prompts_calibrated_on:
        notes.append(
            f"Prompts on whose gold the members were calibrated are left out ({count:,}), since it would praise them."
        )
    if pool.only is not None and pool.only.variance is None:
        notes.append("The file has no variances (a model without a posterior), so nothing here reads any.")
    if pool.only is not None and not spread_within(pool.only.mean, pool.group) > 0:
        notes.append("The reward is the same for all candidates of a prompt, so that picks by it are by chance.")
    if pool.num_prompts == 1:
        notes.append("With a single prompt there is no interval: the width 0 of those shown says nothing.")
    elif pool.num_prompts < _FEW_PROMPTS:
        notes.append(
            f"With {pool.num_prompts} prompts the bootstrap intervals are somewhat too narrow; p-values of falls allow "
            "for it."
        )
    if count := pool.num_repeated:
        notes.append(
            f"{_of(count, pool.num_prompts)} prompts have the text of another, and count as if they were independent: "
            "intervals are too narrow, and strengths may be judged on a prompt that chose them. Give each prompt once, "
            "with all its responses (rows of one prompt_id)."
        )
    if num_seeds > 1:
        notes.append(
            f"Curves are averages over {num_seeds} seeds; reliability, examples and scales are of the first alone."
        )
        if num_seeds < _FEW_SEEDS:
            notes.append(
                f"How much seeds differ is known from {num_seeds} of them alone, which intervals and p-values allow "
                "for: more seeds would narrow them by much."
            )
    if first.left_out:
        notes.append(
            f"{', '.join(first.left_out)}: left out, since the files of some seeds lack what they read; score all "
            "seeds alike."
        )
    size = drawn[0].effective_size
    if size is not None and size[-1] < _FEW_CANDIDATES < pool.counts.smallest_pool:
        notes.append(
            f"At n = {n_max:,} the points rest on {size[-1]:.1f} of a prompt's candidates: they show what the argmax "
            "of the pool is worth rather than an average over draws of n."
        )
    if baselines and pool.scales and pool.num_prompts < FEWEST_PROMPTS:
        notes.append(
            f"No strength is tuned, since there are too few prompts ({pool.num_prompts}) to choose on some and judge on"
            " others: strategies are shown at one strength."
        )
    if baselines and first.utilities[0].fitted.depends_on_pool:
        notes.append(
            f"The values of {first.utilities[0].key} change with the candidates that are present, so no strategy picks "
            "by them: put another utility first for those baselines."
        )
    if baselines and "embedding" not in pool.table.column_names:
        notes.append(
            "The file stores no embeddings, so minimum Bayes risk and consensus, which compare responses, are left "
            "out: score with embeddings (--embeddings), or give the pool a column embedding."
        )
    elif baselines and (count := num_without_embedding(pool)):
        what = "are not drawn" if count == len(pool.group) else "take these to resemble no other"
        notes.append(
            f"{count:,} of {len(pool.group):,} responses have no finite embedding: minimum Bayes risk and consensus "
            f"{what}."
        )
    if waiting := [one.key for one in first.utilities if one.has_shuffle and one.fitted.depends_on_pool]:
        notes.append(
            f"{', '.join(waiting)}: no controls of the variance, since values that change with the candidates that are "
            "present are drawn from subsets, and a gain over a control would be that of drawing them otherwise."
        )
    if by_default and {one.variance for one in first.utilities} == {None, "marginal"}:
        notes.append("The file stores no variance against reference responses: utilities read the marginal one.")
    if any(isinstance(one, GaussianRewards) for one in rewards.rewards.values()):
        rules = [one.fitted.utility.rules[-1] for one in first.utilities if is_affine(one.fitted.utility)]
        if any(isinstance(rule, Entropic) for rule in rules):
            notes.append(
                "These rewards are Gaussian, so entropic is lcb_var with half its risk aversion as weight: one rule "
                "at two strengths."
            )
    return notes


def _left_out(first: Seed) -> list[str]:
    """What of the file is not studied, with counts and shares."""
    pool, counts, num_rows = first.pool, first.pool.counts, len(first.everything)
    notes = []
    if count := counts.num_unscored:
        notes.append(
            f"{_of(count, num_rows)} rows are left out, without a finite reward or a value under every utility."
        )
    if count := counts.num_without_gold:
        without = pool.num_prompts_without_gold
        also = f"; {without:,} prompt{'s have' if without > 1 else ' has'} none at all" if without else ""
        if pool.n_with_all_gold > pool.n_max:
            also += f"; for want of it n ends at {pool.n_max:,} instead of {pool.n_with_all_gold:,}"
        notes.append(
            f"{_of(count, num_rows)} rows are left out, without finite gold{also}. Where gold is missing for a reason, "
            "such as a judge that fails on long answers, what is left tells of other answers than would be picked."
        )
    if count := counts.num_prompts_left_out:
        notes.append(
            f"{_of(count, counts.num_prompts + count)} prompts are left out, with fewer than {pool.n_max:,} candidates."
        )
    if count := pool.num_skipped:
        notes.append(f"{count:,} prompts or rows were left out as faulty when the file was scored.")
    return notes


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / total:.1%})"
