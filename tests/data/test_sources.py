"""Every format and place, and what is said about files that are damaged, empty or not there."""

import csv
import gzip
import json
import os
import subprocess
import sys

import datasets
import pytest
from datasets import Dataset, DatasetDict

from prudent.data import _sources, load_pools, load_preferences
from prudent.errors import DataError

ROWS = [
    {
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Name river {index}, «s'il vous plaît»."},
        ],
        "chosen": [{"role": "assistant", "content": 'The "Rhine",\nof course.'}],
        "rejected": [{"role": "assistant", "content": "A chair.\u2028Or two."}],
        "margin": 0.5 * index,
        "id": f"r/{index}",
    }
    for index in range(7)
]
POOLS = [
    {
        "prompt": f"Name river {index}.",
        "responses": ["The Rhine.", "[1, 2]", ""][: 1 + index],
        "gold": [1.0, -0.5, 0.0][: 1 + index],
    }
    for index in range(3)
]


def write_jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")


def write_gzip(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def write_json(path, rows):
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}
            )


def write_parquet(path, rows):
    Dataset.from_list(rows).to_parquet(str(path))


WRITERS = {
    "a.jsonl": write_jsonl,
    "a.ndjson": write_jsonl,
    "lines.json": write_jsonl,
    "a.jsonl.gz": write_gzip,
    "a.json": write_json,
    "a.csv": write_csv,
    "a.parquet": write_parquet,
}


def canonical(rows):
    return list(load_preferences(rows).rows)


@pytest.mark.parametrize(("file", "write"), WRITERS.items())
@pytest.mark.parametrize("streaming", [False, True])
def test_every_format_gives_the_same_rows(tmp_path, file, write, streaming):
    write(tmp_path / file, ROWS)
    pairs = load_preferences(tmp_path / file, streaming=streaming)
    assert list(pairs.rows) == canonical(ROWS)
    assert pairs.summary.source == str(tmp_path / file)
    write(tmp_path / file, POOLS)
    assert list(load_pools(str(tmp_path / file), streaming=streaming).rows) == list(load_pools(POOLS).rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file]  # no cache beside the user's data


def test_flat_pools_from_csv_keep_texts_as_they_are(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_text(
        'prompt,response,gold,is_baseline\nq,"[1, 2]",1,false\nq,42,-2.5,True\nq,a,,FALSE\n', encoding="utf-8-sig"
    )
    pools = load_pools(path, drop="is_baseline")
    assert pools.rows[0]["responses"] == ["[1, 2]", "a"]
    assert pools.rows[0]["gold"][0] == 1.0
    assert pools.summary.num_without_gold == pools.summary.num_dropped == 1


def test_long_cells_are_read(tmp_path):
    write_csv(tmp_path / "a.csv", [{"prompt": "q", "chosen": "long " * 50_000, "rejected": "short"}])
    assert len(load_preferences(tmp_path / "a.csv")) == 1


def test_objects_of_datasets():
    assert list(load_preferences(Dataset.from_list(ROWS)).rows) == canonical(ROWS)
    both = DatasetDict(train=Dataset.from_list(ROWS), held_out=Dataset.from_list(ROWS[:2]))
    assert len(load_preferences(both, split="held_out")) == 2
    with pytest.raises(DataError, match="no split 'test'; there are train, held_out"):
        load_preferences(both, split="test")


def test_folder_of_save_to_disk(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    both = DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:2]))
    both.save_to_disk(tmp_path / "both")
    before = sorted(tmp_path.rglob("*"))
    assert list(load_preferences(tmp_path / "one").rows) == canonical(ROWS)
    assert len(load_preferences(tmp_path / "both", split="test", streaming=True)) == 2
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="looks like a folder of `save_to_disk`"):
        load_preferences(tmp_path / "one")


def test_folder_of_files_by_split(tmp_path):
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", ROWS[:3])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", ROWS[3:])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", ROWS[:2])
    write_json(tmp_path / "dataset_infos.json", {"about": "nothing"})
    pairs = load_preferences(tmp_path)
    assert list(pairs.rows) == canonical(ROWS)
    assert len(load_preferences(tmp_path, split="test")) == 2
    with pytest.raises(DataError, match="no split 'validation' in this folder; there are test, train"):
        load_preferences(tmp_path, split="validation")
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(DataError, match="in several formats"):
        load_preferences(tmp_path)


def test_folder_in_which_no_name_speaks_of_a_split(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS[:3])
    write_jsonl(tmp_path / "b.jsonl", [ROWS[3], {**ROWS[4], "chosen": ""}])
    with pytest.raises(DataError, match=r"b.jsonl row 1 \(line 2\): `chosen` is empty"):
        load_preferences(tmp_path)
    assert load_preferences(tmp_path, split="test", on_bad="skip").rows["row"][:] == [0, 1, 2, 3]


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="no data file in this folder"):
        load_preferences(tmp_path)


@pytest.mark.parametrize("file", list(WRITERS))
def test_empty_files(tmp_path, file):
    (tmp_path / file).touch()
    for load in (load_preferences, load_pools):
        with pytest.raises(DataError, match="the file is empty"):
            load(tmp_path / file)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.csv", b"prompt,chosen,rejected\n"),
        ("a.jsonl", b"\n\n"),
        ("a.json", b"[]"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_files_without_rows(tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match="there are no rows in it"):
        load_preferences(tmp_path / file)


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("a.parquet", b"PAR1 is how it should begin, and end", "cannot be read.*damaged or cut short"),
        ("a.jsonl.gz", b"not gzip at all", "not gzip or was cut short"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "q"}' * 99, mtime=0)[:-10], "not gzip or was cut short"),
        ("a.json", b'[{"prompt": "q",}]', "not JSON: .* at line 1, column 1"),
        ("a.csv", b'prompt,chosen,rejected\nq,"a,b\n', "not CSV at line 2"),
        ("a.csv", b"prompt,chosen,rejected\nq,a,\xff\n", "row 0: `rejected` holds what is not UTF-8"),
        ("a.csv", b"prompt,chosen,rejected\nq,a\n", "row 0: 2 cells for 3 columns"),
        ("a.jsonl", b'"text"\n', r"row 0 \(line 1\): a row must be a JSON object"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', r"row 0 \(line 1\): not UTF-8"),
        ("a.txt", b"q", "format is not known by its name"),
        ("a.parquet.gz", b"q", "format is not known by its name"),
    ],
)
def test_damaged_files(tmp_path, file, content, fault):
    (tmp_path / file).write_bytes(content)
    for streaming in (False, True):
        with pytest.raises(DataError, match=fault) as caught:
            load_preferences(tmp_path / file, streaming=streaming)
        assert "\n" not in str(caught.value)
        assert file in str(caught.value)


def test_parquet_damaged_in_the_middle(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, [{**row, "id": os.urandom(4000).hex()} for row in ROWS])
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or cut short"):
        load_preferences(path)


def test_a_bad_line_is_named_by_row_and_line(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    lines[3] = lines[3][:-5]
    path.write_text("\n\n".join(lines))
    with pytest.raises(DataError, match=r"row 3 \(line 7\): not JSON: "):
        load_preferences(path)
    pairs = load_preferences(path, on_bad="skip")
    assert pairs.summary.skipped == {"bad JSON": 1}
    assert pairs.rows["row"][:] == [0, 1, 2, 4, 5, 6]


def test_an_unreadable_file_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, ROWS)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match="may not be read"):
        load_preferences(path)


@pytest.mark.parametrize("path", ["missing.jsonl", "./missing", "/no/such/folder", "a/b/c", "~/no-such-file.csv"])
def test_paths_that_are_not_there_never_go_to_the_hub(path, monkeypatch):
    monkeypatch.setattr(_sources, "load_dataset", lambda *args, **kwargs: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="there is no such file or folder; check the path"):
        load_preferences(path)


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(DataError, match="the source is an empty name"):
        load_preferences("")


def test_the_hub_is_asked_with_name_split_and_streaming(monkeypatch):
    asked = []

    def load_dataset(path, **kwargs):
        asked.append((path, kwargs))
        rows = Dataset.from_list(ROWS)
        return rows.to_iterable_dataset() if kwargs["streaming"] else rows

    monkeypatch.setattr(_sources, "load_dataset", load_dataset)
    pairs = load_preferences("someone/pairs", split="train_prefs", name="small")
    assert asked == [("someone/pairs", {"name": "small", "split": "train_prefs", "streaming": False})]
    assert list(pairs.rows) == canonical(ROWS)
    stream = load_preferences("someone/pairs", streaming=True)
    assert asked[1] == ("someone/pairs", {"name": None, "split": "train", "streaming": True})
    assert list(stream.rows) == canonical(ROWS)
    with pytest.raises(DataError, match="someone/pairs: no column responses or response"):
        load_pools("someone/pairs", split="test")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach it\nat all"), "the hub cannot be reached .Couldn't reach it."),
        (datasets.exceptions.DatasetNotFoundError("not on the hub"), "the hub does not give it .* .not on the hub."),
        (ValueError("Unknown split"), "does not give it with split 'train' and name None .Unknown split."),
        (RuntimeError("Dataset scripts are no longer supported"), "no longer supported"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(error, message, monkeypatch):
    def load_dataset(path, **kwargs):
        raise error

    monkeypatch.setattr(_sources, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=message) as caught:
        load_preferences("someone/pairs")
    assert "\n" not in str(caught.value)


def test_a_hub_name_offline(tmp_path):
    code = "from prudent.data import load_preferences; load_preferences('someone/pairs')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        "DataError: someone/pairs: there is no such file or folder here, and the hub cannot be reached" in done.stderr
    )
