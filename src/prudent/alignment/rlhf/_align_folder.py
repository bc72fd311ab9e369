"""The output folder of an alignment run.

output/checkpoints/           as in training: run.json, checkpoint-N/, until the run has finished
output/references/            responses of the first policy, their rewards, and the utility fitted on them
output/logs/                  what TensorBoard reads
output/monitor.parquet        a row a look at the held-out prompts
output/samples.parquet        a row a completion of them
output/reference.json         what the first policy gives fixed texts
output/align_result.json      the result; the run has finished exactly if it is there
output/...                    the policy, an ordinary Transformers or PEFT folder
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from prudent.alignment._memory import out_of_memory
from prudent.alignment.rlhf._align_config import HARMLESS, LESS_AT_ONCE, AlignConfig
from prudent.alignment.rlhf._align_inputs import RewardModels
from prudent.alignment.rlhf._policy_kl import Reference, plain_forward, text_log_probs
from prudent.errors import ModelError
from prudent.models import Message, atomic_file
from prudent.sampling import Policy, sample_pool
from prudent.scoring import fit_utility, score
from prudent.training import RunFolder
from prudent.utility import Center, Piped, Utility

__all__ = ["AlignFolder", "check_reference", "fitted_references", "sampled_references"]

# What a process that was killed left of a file.
_HALF_WRITTEN = ".*.tmp"
# Of the mean log-probability of a token under the reference, in nats: what another order of sums may change.
_DRIFT = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}


class AlignFolder(RunFolder):
    """The folder of one run.

    Args:
        output: the folder; it need not exist.
    """

    result_name: ClassVar[str] = "align_result.json"
    harmless: ClassVar[frozenset[str]] = HARMLESS
    made: ClassVar[tuple[str, ...]] = (*RunFolder.made, "monitor.parquet", "samples.parquet", _HALF_WRITTEN)
    made_folders: ClassVar[tuple[str, ...]] = ("references", "logs")

    @property
    def references(self) -> Path:
        """What is known of the first policy's responses."""
        return self.output / "references"

    def start(self, settings: dict[str, Any], *, writes: bool) -> Path | None:
        """As of any run; what an earlier session half wrote goes too."""
        if writes:
            for path in self.output.glob(_HALF_WRITTEN):
                path.unlink()
        return super().start(settings, writes=writes)

    def _known(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {**AlignConfig().settings(), **settings}


def sampled_references(
    policy: Policy,
    prompts: Sequence[str | Sequence[Message]],
    reward_model: RewardModels,
    folder: Path,
    config: AlignConfig,
    *,
    factor: bool,
    progress: bool,
) -> Path:
    """Responses of the first policy to all prompts, scored; a run that was cut off goes on where it was.

    Args:
        policy: before training.
        prompts: as the trainer has them.
        reward_model: the proxy.
        folder: to write to.
        config: how many, how long, at which temperature.
        factor: the models have posteriors, so that variances of contrasts with the references can be had.
        progress: show bars.

    Returns:
        The scored file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pool, scored = folder / "pool.parquet", folder / "scored.parquet"
    sample_pool(
        policy,
        [{"prompt": prompt} for prompt in prompts],
        pool,
        num_candidates=config.num_references,
        temperature=config.temperature,
        max_new_tokens=config.max_completion_length,
        tokens_per_batch=config.tokens_per_batch,
        seed=config.seed,
        progress=progress,
    )
    score(
        reward_model,
        pool,
        scored,
        factor=factor,
        num_references=config.num_references,
        tokens_per_batch=config.tokens_per_batch,
        seed=config.seed,
        progress=progress,
    )
    return scored


def fitted_references(scored: str | Path, utility: Utility, reward_model: RewardModels, folder: Path) -> Path:
    """The utility with what it learns of reference responses, saved.

    Args:
        scored: responses of the first policy to all prompts.
        utility: what a response is worth.
        reward_model: the proxy.
        folder: to write to.

    Raises:
        DataError: the scored file lacks what the utility needs.
    """
    steps = [node.step for node in utility.nodes() if isinstance(node, Piped)]
    reads_prompts = any(isinstance(step, Center) and step.of == "learned" for step in steps)
    output = folder / "utility"
    fit_utility(scored, utility, output, overwrite=True, model=reward_model if reads_prompts else None, progress=False)
    return output


def check_reference(
    path: Path,
    reference: Reference,
    texts: Sequence[Sequence[int]],
    *,
    at_start: bool,
    tokens_per_batch: int = 16_384,
) -> None:
    """Make sure that the reference gives fixed texts what it gave them when training began.

    Both times it computes as its weights are stored: the autocast of training, which wraps a policy only once training
    has begun, would pass for a drift.

    Args:
        path: where that is noted, the first time.
        reference: what the policy is compared with.
        texts: token ids.
        at_start: training begins now.
        tokens_per_batch: padded tokens of a batch.

    Raises:
        ModelError: it has drifted, or memory runs out.
    """
    with out_of_memory(LESS_AT_ONCE), reference() as model, plain_forward(model):
        model.eval()
        dtype = str(next(_floating(model))).removeprefix("torch.")
        values = text_log_probs(model, texts, tokens_per_batch=tokens_per_batch).tolist()
    if at_start or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps({"log_probs": values}) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text(encoding="utf-8"))["log_probs"]
    gaps = [abs(now - then) / max(1, len(text) - 1) for now, then, text in zip(values, before, texts, strict=True)]
    if not max(gaps) <= _DRIFT.get(dtype, 1e-4):
        raise ModelError(
            f"the reference policy has changed during training: the log-probability of a token of a fixed text moved "
            f"by up to {max(gaps):.2g}, so the KL penalty and the KL in {path.parent / 'monitor.parquet'} were to "
            "something else; were its weights (the base of the adapter) trained too?"
        )


def _floating(model: nn.Module) -> Any:
    return (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
