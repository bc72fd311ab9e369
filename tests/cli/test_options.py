"""The options that verbs share, their help, and that they say what the library does."""

import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import prudent
from prudent.cli import app
from prudent.cli._console import Outcome, plain, table

VERBS = [
    "demo",
    "train",
    "fit",
    "ensemble",
    "sample",
    "score",
    "select",
    "reweight",
    "align",
    "evaluate",
    "report",
]


def invoke(*arguments: str):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})


def test_help_lists_the_verbs_in_the_order_of_their_use():
    text = invoke("--help").stdout
    positions = [re.search(rf"^│ {verb} ", text, re.MULTILINE).start() for verb in VERBS]
    assert positions == sorted(positions)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_has_an_example_and_the_shared_options(verb):
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert f"prudent {verb}" in result.stdout.partition("Example")[2]
    for option in ("--config", "--json", "--quiet", "--debug"):
        assert option in result.stdout
    assert ("--seed" in result.stdout) == (verb not in ("ensemble", "export"))  # which draw nothing


@pytest.mark.parametrize("verb", VERBS)
def test_the_options_of_each_example_exist(verb):
    command = get_command(app).commands[verb]
    known = {option for parameter in command.params for option in parameter.opts}
    used = set(re.findall(r"--[a-z-]+", command.epilog))
    assert used <= known


def test_every_option_has_help():
    for verb, command in get_command(app).commands.items():
        for parameter in command.params:
            assert parameter.help, f"{verb} {parameter.name}"


def test_defaults_are_those_of_the_library():
    """What `--help` shows as a default is what the Python function does without the argument."""
    from prudent.posteriors import ensemble
    from prudent.training import TrainingConfig

    functions = {
        "demo": prudent.run_demo,
        "train": prudent.train,
        "fit": prudent.fit,
        "ensemble": ensemble,
        "sample": prudent.sample_pool,
        "score": prudent.score,
        "select": prudent.select,
        "export": prudent.write_reward_file,
        "reweight": prudent.reweight_pool,
        "align": prudent.align,
        "evaluate": prudent.evaluate,
        "report": prudent.best_of_n_study,
    }
    compared = 0
    for verb, function in functions.items():
        library = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
        if verb == "train":
            library |= {field.name: field.default for field in fields(TrainingConfig)}
            library["report_to"] = None
        if verb == "align":
            library |= {field.name: field.default for field in fields(prudent.AlignConfig)}
            library["report_to"] = None
        for parameter in get_command(app).commands[verb].params:
            has_default = library.get(parameter.name, inspect.Parameter.empty) is not inspect.Parameter.empty
            if has_default and not parameter.required:
                default = getattr(parameter.default, "value", parameter.default)
                assert default == library[parameter.name], f"{verb} --{parameter.name}"
                compared += 1
    assert compared > 50


def test_choices_of_fit_are_those_of_the_library():
    from typing import get_args

    from prudent.cli._fit import ArchitectureName, DiversityName, HeadName, PoolingName, PosteriorName
    from prudent.models import Pooling
    from prudent.posteriors import Diversity, HeadArchitecture, HeadChoice, PosteriorKind

    for names, known in (
        (PosteriorName, PosteriorKind),
        (PoolingName, Pooling),
        (HeadName, HeadChoice),
        (ArchitectureName, HeadArchitecture),
        (DiversityName, Diversity),
    ):
        assert {name.value for name in names} == set(get_args(known))


def test_losses_are_those_of_the_library():
    from typing import get_args

    from prudent.cli._train import LossName
    from prudent.training import LossName as Known

    assert [loss.value for loss in LossName] == list(get_args(Known))


def test_version():
    assert invoke("--version").stdout == f"prudent {prudent.__version__}\n"


def test_without_a_verb_the_help_is_shown():
    result = invoke()
    assert result.exit_code == 0
    assert "Usage: prudent" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["--version"], ["score", "--modle", "x"]])
def test_answers_without_importing_torch(arguments):
    code = (
        "import sys\n"
        "from prudent.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_plain_results_are_strict_json(tmp_path):
    result = plain({"a": float("nan"), "b": [float("inf"), 1.5], "c": tmp_path, "d": {1: (True, None)}})
    assert json.loads(json.dumps(result, allow_nan=False)) == {
        "a": None,
        "b": [None, 1.5],
        "c": str(tmp_path),
        "d": {"1": [True, None]},
    }


def test_a_table_is_aligned():
    text = table(["rule", "n", "gold"], [["mean", 1, 0.123456], ["lcb_std", 12500, None]])
    assert text.splitlines() == [
        "rule         n    gold",
        "mean         1  0.1235",
        "lcb_std  12500       -",
    ]


def test_an_outcome_is_immutable():
    with pytest.raises(AttributeError):
        Outcome({}, "").text = "other"


@pytest.mark.parametrize(
    "args",
    [
        ["select", "--data", "x", "--output", "y", "--utility", "helpful", "--utility", "tidy"],
        ["score", "--columns", "a=x", "--columns=b=y", "--data", "x", "--output", "y"],
    ],
)
def test_an_option_of_one_value_is_not_given_twice(args):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert "takes one value, and is given twice" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["select", "--data", "x", "--output", "y", "--utility", "both=mean"], "a name is for evaluate and report"),
        (["explain", "--data", "x", "--prompt", "0", "--utility", "both=mean"], "a name is for evaluate and report"),
        (["evaluate", "--scored", "x", "--utility", "my-label=mean"], "names the utility, in one word"),
        (
            ["report", "--data", "x", "--output", "y.html", "--utility", "my label=mean"],
            "names the utility, in one word",
        ),
    ],
)
def test_names_of_utilities_are_told_how_to_be_written(args, message):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
