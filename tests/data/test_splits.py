"""Which splits a source has, and which is read where none was named."""

import json

import pytest
from datasets import Dataset, DatasetDict

from prudent.data import _splits, check_eval_split, choose_split, load_preferences, split_names
from prudent.errors import DataError

ROWS = [{"prompt": f"Name river {index}.", "chosen": "The Rhine.", "rejected": "A chair."} for index in range(3)]


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


@pytest.mark.parametrize(
    ("files", "names", "held_out"),
    [
        (["a.jsonl", "b.jsonl"], [], None),
        (["train.jsonl"], ["train"], "train"),
        (["train.jsonl", "test.jsonl", "validation.jsonl"], ["test", "train", "validation"], "test"),
        (["one/train.jsonl.gz", "two/val.jsonl"], ["train", "val"], "val"),
        (["pairs.jsonl", "test.jsonl"], ["", "test"], "test"),
        (["data/test-00000-of-00001.jsonl", "README.md"], ["test"], "test"),
    ],
)
def test_folder_of_files(files, names, held_out, tmp_path):
    write(tmp_path, *files)
    assert split_names(tmp_path) == split_names(str(tmp_path)) == names
    assert choose_split(tmp_path, None, held_out=True) == held_out
    assert choose_split(tmp_path, "other") == "other"
    if len(names) > 1:
        with pytest.raises(DataError, match=r"there are the splits .*; choose one by split \(--split\)"):
            choose_split(tmp_path, None)
    else:
        assert choose_split(tmp_path, None) == held_out


def test_files_of_no_split_are_not_passed_over_silently(tmp_path):
    write(tmp_path, "pairs.jsonl", "train.jsonl")
    with pytest.raises(DataError, match="there are the splits train and files of none; choose one"):
        choose_split(tmp_path, None, held_out=True)


def test_objects_and_folders_of_save_to_disk(tmp_path):
    rows = Dataset.from_list(ROWS)
    both = DatasetDict(train=rows, held_out=rows)
    rows.save_to_disk(tmp_path / "one")
    both.save_to_disk(tmp_path / "both")
    for source in (both, tmp_path / "both"):
        assert split_names(source) == ["train", "held_out"]
        with pytest.raises(DataError, match="there are the splits train, held_out; choose one"):
            choose_split(source, None, held_out=True)
        assert len(load_preferences(source, split=choose_split(source, "held_out"))) == 3
    for source in (rows, ROWS, tmp_path / "one", write(tmp_path, "a.jsonl") / "a.jsonl", "missing.jsonl", ""):
        assert split_names(source) == []
        assert choose_split(source, None) is None
    (tmp_path / "both" / "dataset_dict.json").write_text("[")
    with pytest.raises(DataError, match=r"dataset_dict.json cannot be read"):
        split_names(tmp_path / "both")


def test_the_hub_says_which_there_are(monkeypatch):
    monkeypatch.setattr(_splits, "get_dataset_split_names", lambda name: ["train", "validation"])
    assert choose_split("someone/pairs", None, held_out=True) == "validation"

    def unreachable(name):
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(_splits, "get_dataset_split_names", unreachable)
    assert choose_split("someone/pairs", "test") == "test"
    with pytest.raises(DataError, match="someone/pairs: there is no such file or folder here, and the hub cannot be"):
        choose_split("someone/pairs", None)


def test_training_and_evaluation_data_of_one_source(tmp_path):
    write(tmp_path, "train.jsonl", "test.jsonl")
    check_eval_split(tmp_path, "test", split="train")
    with pytest.raises(DataError, match="'train' is to be trained and evaluated on"):
        check_eval_split(tmp_path, "train", split="train")
    with pytest.raises(DataError, match=r"there are no splits, and so no 'test' to evaluate on; .*--eval-data"):
        check_eval_split(tmp_path / "train.jsonl", "test", split="train")
