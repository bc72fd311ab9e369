"""What a study leaves out is told in its notes, with counts and shares."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prudent.evaluation import best_of_n_study, overopt
from prudent.scoring import PartedOutput, ScoredPool, read_scored


def columns(num_prompts: int = 6, size: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = num_prompts * size
    return {
        "prompt_id": np.repeat(np.arange(num_prompts), size),
        "reward_mean": rng.normal(size=rows),
        "reward_variance": rng.uniform(0.1, 2, size=rows),
        "gold": rng.normal(size=rows),
    }


def notes(found: dict[str, Any], word: str, **options: Any) -> list[str]:
    study = best_of_n_study(pa.table(found), num_bootstrap=5, num_resamples=2, **options)
    return [note for note in study.notes if word in note]


def test_rows_without_gold() -> None:
    found = columns()
    assert not notes(found, "left out, without")
    found["gold"][::3] = np.nan
    (note,) = notes(found, "finite gold")
    assert note.startswith("24 of 72 (33.3%) rows are left out, without finite gold; for want of it n ends at 8 ")
    found["gold"][:12] = np.inf  # of the first prompt all
    (note,) = notes(found, "finite gold")
    assert "32 of 72 (44.4%) rows" in note
    assert "; 1 prompt has none at all; for want of it n ends at 8 instead of 12." in note
    (note,) = notes(found, "finite gold", n_values=[1, 4])
    assert "n ends" not in note
    single = columns()
    single["gold"][5] = np.inf
    (note,) = notes(single, "finite gold")
    assert "1 of 72 (1.4%) rows are left out" in note
    assert "n ends at 11 instead of 12" in note


def test_rows_without_a_reward_and_small_prompts() -> None:
    found = columns()
    found["reward_mean"][:9] = np.nan
    told = notes(found, "left out")
    assert told[0] == "9 of 72 (12.5%) rows are left out, without a finite reward or a value under every utility."
    assert told[1] == "1 of 6 (16.7%) prompts are left out, with fewer than 12 candidates."


def test_a_file_without_embeddings() -> None:
    found = columns()
    (note,) = notes(found, "embeddings")
    assert "minimum Bayes risk and consensus, which compare responses, are left out" in note
    assert "--embeddings" in note
    assert not notes(found, "embeddings", baselines=False)
    found["embedding"] = pa.array(np.random.default_rng(1).normal(size=(72, 3)).tolist())
    assert not notes(found, "embedding")


@pytest.mark.parametrize("manifest", [{"summary": {"num_skipped": 3}}, {}, {"summary": None}, []])
def test_what_scoring_skipped(tmp_path: Path, manifest: Any) -> None:
    place = tmp_path / "scored.parquet"
    with PartedOutput(place, {}) as parts:
        parts.write(pa.table(columns()))
        parts.finish({})
    (place / "_manifest.json").write_text(json.dumps(manifest))
    count = 3 if manifest == {"summary": {"num_skipped": 3}} else 0
    assert read_scored(place).num_skipped == count
    found = overopt({"a": place}, notes={"a": ["Of sampling."], "b": ["Of another."]}, num_bootstrap=5, baselines=False)
    told = found.studies["a"].notes
    assert ("3 prompts or rows were left out as faulty when the file was scored." in told) == bool(count)
    assert told[-1] == "Of sampling."
    assert ScoredPool(pa.table(columns())).num_skipped == 0


def test_penalties_whose_strongest_is_chosen() -> None:
    rng = np.random.default_rng(3)
    found = columns(24, 12)
    found["reward_variance"] = rng.uniform(0.1, 20, size=288)
    found["gold"] = -found["reward_variance"]
    (note,) = notes(found, "choose the strongest")
    assert note.startswith("lcb_std, lcb_var: calibration prompts choose the strongest that was tried")
    found["gold"] = found["reward_mean"]
    assert not notes(found, "choose the strongest")


@pytest.mark.parametrize("messages", [False, True])
def test_a_prompt_that_is_there_twice(messages: bool) -> None:
    texts = ["a", "b", "a ", "c", "d", "b"]
    prompts = [[{"role": "user", "content": text}] if messages else text for text in texts]
    found = columns() | {"prompt": [prompts[row // 12] for row in range(72)]}
    (note,) = notes(found, "text of another")
    assert note.startswith("4 of 6 (66.7%) prompts have the text of another")
    found["prompt"] = [f"{row // 12}" for row in range(72)]
    assert not notes(found, "text of another")
    found["prompt"] = [None] * 72
    assert not notes(found, "text of another")
