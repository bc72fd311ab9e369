"""`prudent overopt`: scored files, models or a policy in; a page, tables and verdicts out; errors in one line."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from prudent.cli import app
from prudent.evaluation import read_overopt
from prudent.scoring import PartedOutput

WORDS = ["name", "a", "fruit", "the", "bird", "river", "stone", "house"]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    draw = random.Random(0)
    rows = [
        {
            "prompt": f"{word} {draw.choice(WORDS)}",
            "responses": [" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(5)],
            "gold": [draw.gauss(0, 1) for _ in range(5)],
        }
        for word in WORDS
    ]
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, ["overopt", *map(str, arguments)])


def test_models_are_scored_and_studied(tiny_models, pool: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    arguments = [
        "--model", f"small={tiny_models('bert')}", "--model", f"small={tiny_models('roberta')}",
        "--model", f"other={tiny_models('llama')}", "--data", pool, "--output", lab, "--num-bootstrap", 20,
    ]  # fmt: skip
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found["verdicts"]) == {"small", "other"}
    assert found["verdicts"]["small"]["gold"]["peak_n"] in (1, 2, 3, 4, 5)
    assert (lab / "report.html").stat().st_size > 10_000
    read = read_overopt(lab)
    assert {key: study.settings.num_seeds for key, study in read.studies.items()} == {"small": 2, "other": 1}
    assert pq.read_table(lab / "curves.parquet").num_rows == read.to_table().num_rows
    assert sorted(place.name for place in (lab / "scored").iterdir()) == [
        "other-0.parquet",
        "small-0.parquet",
        "small-1.parquet",
    ]
    # what is scored is kept, and may be studied again as it is
    scored = [f"pool/small={lab / 'scored' / f'small-{seed}.parquet'}" for seed in (0, 1)]
    again = run("--scored", scored[0], "--scored", scored[1], "--output", tmp_path / "again", "--quiet")
    assert again.exit_code == 0, again.stderr
    assert "pool/small" in again.stdout
    strategies = {curve.strategy.partition("(")[0] for curve in read.studies["other"].curves if curve.strategy}
    assert {"mbr", "soft", "pessimism", "top_k"} <= strategies  # embeddings were stored


def test_a_policy_is_sampled_and_judged(tiny_models, pool: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    result = run(
        "--model", tiny_models("bert"), "--policy", tiny_models("llama", head=False),
        "--gold-model", tiny_models("llama"), "--data", pool, "--num-candidates", 4, "--max-new-tokens", 5,
        "--output", lab, "--num-bootstrap", 20, "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert pq.read_table(lab / "pools" / "pool.parquet").num_rows == 8
    study = read_overopt(lab).studies["proxy"]
    assert (study.counts.num_candidates, study.one_policy) == (32, True)
    assert f"report in {lab / 'report.html'}" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --scored, or --model and --data"),
        (["--scored", "a.parquet", "--model", "rm"], "--model does not go with --scored"),
        (["--scored", "nowhere.parquet"], "there is no nowhere.parquet"),
        (["--scored", "a=x.parquet", "--scored", "y.parquet"], "y.parquet: where there are several, give each a name"),
        (["--scored", "x.parquet", "--scored", "y.parquet"], "the same name for seeds of one proxy"),
        (["--model", "RM", "--model", "RM", "--data", "POOL"], "the same name for seeds of one proxy"),
        (["--model", "a=RM", "--model", "a=RM", "--data", "POOL"], "is there twice, and a model is no other seed"),
        (["--scored", "a="], "nothing after the name"),
        (["--model", "./nowhere", "--data", "POOL"], "there is no folder ./nowhere"),
        (["--model", "RM", "--data", "NO_GOLD"], "has no gold"),
        (["--model", "RM", "--data", "POOL", "--gold-model", "RM"], "--gold-model goes with --policy"),
        (["--model", "RM", "--data", "POOL", "--policy", "RM"], "--policy needs --gold-model"),
        (["--model", "RM", "--data", "ALL_NAN"], "has no gold"),
        (["--scored", "a.parquet", "--n", "1,x"], "whole numbers with commas"),
        (["--scored", "a.parquet", "--n", "0,4"], "numbers of candidates are at least 1"),
        (["--scored", "NO_SCORED_GOLD"], "is without a number in column gold"),
        (["--scored", "NO_SCORED_GOLD", "--scale", "gold_length_adjusted"], "is without a number in column gold"),
        (["--scored", "SCORED", "--scale", "gold_length_adjusted"], "has no column length, which the scale"),
        (["--scored", "SCORED", "--scored", "b=TEXT_GOLD"], "where there are several"),
        (["--scored", "a=SCORED", "--scored", "b=TEXT_GOLD"], "b: TEXT_GOLD: column 'gold' must be numbers"),
        (["--scored", "a=SCORED", "--scored", "a=COPY"], "are the same, not two seeds"),
        (["--scored", "a=SCORED", "--utility", "worst"], "a: "),
        (["--scored", "POOL_FILE"], "is not a scored pool: column 'prompt_id' is missing"),
    ],
)
def test_errors_take_one_line(tiny_models, pool: Path, tmp_path: Path, options: list[str], message: str) -> None:
    row = {"prompt": "name a fruit", "responses": ["the bird", "a river"]}
    (tmp_path / "no_gold.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "nan_gold.jsonl").write_text(json.dumps({**row, "gold": [None, None]}) + "\n")
    scored = pa.table({"prompt_id": [0, 0], "reward_mean": [0.0, 1.0], "reward_variance": [1.0, 1.0]})
    given = {"POOL": pool, "NO_GOLD": tmp_path / "no_gold.jsonl", "ALL_NAN": tmp_path / "nan_gold.jsonl"}
    golds = {"SCORED": [0.0, 1.0], "COPY": [0.0, 1.0], "TEXT_GOLD": ["x", "y"], "NO_SCORED_GOLD": [None, float("nan")]}
    for name, gold in golds.items():
        given[name] = tmp_path / f"{name}.parquet"
        pq.write_table(scored.append_column("gold", pa.array(gold)), given[name])
    given["POOL_FILE"] = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "responses": [["b", "c"]], "gold": [[0.0, 1.0]]}), given["POOL_FILE"])
    given["RM"] = tiny_models("bert")

    def filled(text: str) -> str:
        start, equals, name = text.rpartition("=")
        return f"{start}{equals}{given.get(name, name)}"

    result = run(*map(filled, options), "--output", tmp_path / "lab", "--quiet")
    assert result.exit_code == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message.replace("TEXT_GOLD", str(given["TEXT_GOLD"])) in result.stderr
    assert not (tmp_path / "lab" / "scored").exists()
    assert not (tmp_path / "lab" / "curves.parquet").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "a=RM-typo", "--data", "POOL"], "there is no folder"),
        (["--model", "RM", "--data", "bad name=POOL"], "names no proxy"),
        (["--model", "RM", "--data", "p/q=POOL"], "names no pool"),
        (["--model", "RM", "--data", "POOL", "--utility", "nonsense"], "there is no reward 'nonsense'"),
        (["--model", "RM", "--data", "POOL", "--n", "1,50"], "4 responses are sampled to a prompt"),
        (["--model", "RM", "--data", "POOL", "--temperature", "0"], "--temperature"),
        (["--model", "RM", "--data", "POOL", "--temperature", "inf"], "inf is not a finite number"),
        (["--model", "RM", "--data", "POOL", "--output", "POOL"], "is a file; give a folder"),
        (["--model", "RM", "--data", "POOL", "--output", "RM"], "holds a model; give a folder of its own"),
        (["--model", "a=RM", "--model", "b=LM", "--data", "POOL"], "b: "),
        (["--model", "RM", "--data", "one=POOL", "--data", "two=nowhere.jsonl"], "no such file"),
    ],
)
def test_nothing_is_sampled_before_all_else_is_checked(
    tiny_models, pool: Path, tmp_path: Path, options: list[str], message: str, monkeypatch
) -> None:
    def no_sampling(*arguments: object, **options: object) -> None:
        raise AssertionError("sampled")

    monkeypatch.setattr("prudent.sampling.sample_pool", no_sampling)
    output = () if "--output" in options else ("--output", tmp_path / "lab")
    filled = [one.replace("RM", str(tiny_models("bert"))).replace("POOL", str(pool)) for one in options]
    filled = [one.replace("LM", str(tiny_models("llama", head=False))) for one in filled]
    result = run(*filled, "--policy", "p", "--gold-model", "g", "--num-candidates", 4, "--quiet", *output)
    assert result.exit_code == 2, result.stderr
    assert message in " ".join(result.stderr.split())


def test_a_pool_may_be_called_as_a_table_is(tiny_models, pool: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    arguments = [
        "--model", tiny_models("bert"), "--policy", tiny_models("llama", head=False),
        "--gold-model", tiny_models("llama"), "--data", f"curves={pool}", "--num-candidates", 3,
        "--max-new-tokens", 2, "--num-prompts", 3, "--output", lab, "--num-bootstrap", 4, "--quiet", "--no-baselines",
        "--dtype", "bfloat16",
    ]  # fmt: skip
    first = run(*arguments)
    assert first.exit_code == 0, first.stderr
    assert pq.read_table(lab / "pools" / "curves.parquet").num_rows == 3
    for name in ("report_mine.png", "report_other_gold.png", "report_old_gold.png", "report_new_laws.png"):
        (lab / name).write_bytes(b"")
    known = json.loads((lab / "overopt.json").read_text())
    known["studies"] |= {name: {} for name in ("old", "new")}  # as if these had been studied then
    (lab / "overopt.json").write_text(json.dumps(known))
    again = run(*arguments)
    assert again.exit_code == 0, again.stderr
    assert (lab / "report_gold.png").exists()
    assert not (lab / "report_old_gold.png").exists()
    assert not (lab / "report_new_laws.png").exists()
    assert (lab / "report_mine.png").exists()  # the user's own
    assert (lab / "report_other_gold.png").exists()
    row = pq.read_table(lab / "pools" / "curves.parquet").to_pylist()[0]
    assert row["sampling"]["dtype"] == "torch.bfloat16"
    assert "seeds" in again.stdout


def test_what_is_printed_says_how_sure_it_is(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = 4 * 3
    table = {
        "prompt_id": [row // 3 for row in range(rows)],
        "reward_mean": [draw.gauss(0, 1) for _ in range(rows)],
        "reward_variance": [1.0] * rows,
        "gold": [draw.gauss(0, 1) for _ in range(rows)],
    }
    for name, count in (("few", rows), ("single", 3)):
        pq.write_table(pa.table({key: values[:count] for key, values in table.items()}), tmp_path / f"{name}.parquet")
    scored = [f"{name}={tmp_path / name}.parquet" for name in ("few", "single")]
    result = run("--scored", scored[0], "--scored", scored[1], "--output", tmp_path / "lab", "--num-bootstrap", 20)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    single = next(line for line in lines if line.startswith("single"))
    assert "one prompt is too few to say" in single
    assert "none surely" in single
    assert any(line.startswith("few: With 4 prompts the bootstrap intervals") for line in lines)
    assert any(line.startswith("single: With a single prompt there is no interval") for line in lines)
    wrong = run("--scored", scored[0], "--output", tmp_path / "lab", "--utility", "lcb_sdt(2)")
    assert wrong.exit_code == 2
    assert "Studying" not in wrong.stderr


def test_what_is_read_is_not_written_over(tmp_path: Path, pool: Path, tiny_models) -> None:
    rows = {"prompt_id": [0, 0], "reward_mean": [0.0, 1.0], "reward_variance": [1.0, 1.0], "gold": [0.0, 1.0]}
    scored = tmp_path / "scored.parquet"
    with PartedOutput(scored, {}) as parts:
        parts.write(pa.table(rows))
        parts.finish({})
    single = tmp_path / "lab" / "curves.parquet"
    single.parent.mkdir()
    pq.write_table(pa.table(rows), single)
    before = sorted(tmp_path.rglob("*"))
    for given, output, message in (
        (scored, scored, "is read here"),
        (scored, scored / "lab", "lies in"),
        (scored / "part-00000.parquet", scored, "a dataset that scoring or sampling wrote"),
        (single, single.parent, "is read here"),
    ):
        result = run("--scored", given, "--output", output, "--num-bootstrap", 4, "--quiet")
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    model = tiny_models("bert")
    result = run("--model", model, "--data", pool, "--output", model / "lab", "--quiet")
    assert (result.exit_code, "lies in" in result.stderr) == (2, True), result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert pq.read_table(scored).num_rows == 2


def test_what_is_refused_leaves_no_folder(tmp_path: Path, tiny_models) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "name a fruit", "chosen": "a stone", "rejected": "the bird"}) + "\n")
    lab = tmp_path / "deep" / "lab"
    assert run("--model", tiny_models("bert"), "--data", pairs, "--output", lab, "--quiet").exit_code == 2
    long = run(
        "--model", tiny_models("bert"), "--policy", tiny_models("llama", head=False), "--max-new-tokens", 1000,
        "--gold-model", tiny_models("llama"), "--data", pairs, "--output", lab, "--quiet",
    )  # fmt: skip
    assert long.exit_code == 2
    assert "do not fit into" in long.stderr
    assert list(tmp_path.iterdir()) == [pairs]


def test_what_other_settings_gave_is_replaced_where_that_is_said(tiny_models, pool: Path, tmp_path: Path) -> None:
    arguments = [
        "--model", f"a={tiny_models('bert')}", "--data", pool, "--output", tmp_path / "lab", "--no-baselines",
        "--num-bootstrap", 4, "--quiet",
    ]  # fmt: skip
    assert run(*arguments).exit_code == 0
    other = run(*arguments, "--max-length", 40)
    assert other.exit_code == 2
    assert "was made with another max_length; give another output, or say overwrite (--overwrite)" in other.stderr
    assert run(*arguments, "--max-length", 40, "--overwrite").exit_code == 0
    scored = run("--scored", tmp_path / "lab" / "scored" / "a-0.parquet", "--output", tmp_path / "b", "--overwrite")
    assert scored.exit_code == 2
    assert "--overwrite does not go with --scored" in " ".join(scored.stderr.split())


def test_what_is_skipped_is_told(tiny_models, pool: Path, tmp_path: Path) -> None:
    with pool.open("a") as stream:
        stream.write(json.dumps({"prompt": "name a fruit", "responses": ["pear", 3]}) + "\n")
    few = ["--no-baselines", "--num-bootstrap", 4, "--quiet", "--skip-bad"]
    result = run("--model", tiny_models("bert"), "--data", pool, "--output", tmp_path / "lab", *few)
    assert result.exit_code == 0, result.stderr
    assert "1 prompts or rows were left out as faulty when the file was scored." in result.stdout
    assert "left out as faulty when" in (tmp_path / "lab" / "report.html").read_text()
    prompts = tmp_path / "prompts.jsonl"
    texts = ["name a fruit", "a bird", "name " * 130]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    result = run(
        "--model", tiny_models("bert"), "--policy", tiny_models("llama", head=False), "--max-new-tokens", 4,
        "--gold-model", tiny_models("llama"), "--data", prompts, "--output", tmp_path / "sampled", *few,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "1 rows of the prompts were left out before sampling, as not valid or too long." in result.stdout
