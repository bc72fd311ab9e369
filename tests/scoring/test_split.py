"""`score` on a folder with several splits, and the names of texts that are too long."""

import json

import pytest

from prudent.errors import DataError, PrudentError
from prudent.scoring import read_scored, score


def write_pools(folder):
    folder.mkdir()
    for split, text in (("train", "apple"), ("test", "river")):
        rows = [{"prompt": "name a fruit", "responses": [text, "yes", "no " * (300 if split == "test" else 1)]}] * 2
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_several_splits_need_a_choice(tiny_models, tmp_path):
    folder = write_pools(tmp_path / "pools")
    with pytest.raises(DataError, match=r"pools: there are the splits test, train; choose one by split \(--split\)"):
        score(tiny_models("llama"), folder, tmp_path / "out", progress=False)
    score(tiny_models("llama"), folder, tmp_path / "out", split="test", progress=False)
    assert read_scored(tmp_path / "out").table["response"][0].as_py() == "river"
    with pytest.raises(PrudentError, match="split"):
        score(tiny_models("llama"), folder, tmp_path / "out", split="train", progress=False)
    (folder / "train.jsonl").unlink()
    assert score(tiny_models("llama"), folder, tmp_path / "only", progress=False).num_prompts == 2


def test_strict_names_prompt_and_response(tiny_models, tmp_path):
    folder = write_pools(tmp_path / "pools")
    with pytest.raises(DataError, match=r"prompt 0, response 2 \(\d+ tokens\), prompt 1, response 2 \(\d+ tokens\);"):
        score(tiny_models("llama"), folder, tmp_path / "out", split="test", strict=True, progress=False)
