"""`--config FILE.yaml`: flat names, the command line wins, and nothing is ignored."""

from typing import Annotated

import typer
from typer.testing import CliRunner

from prudent.cli import app
from prudent.cli._app import Common, OneLineErrors, verb
from prudent.cli._console import Outcome
from prudent.cli._options import Dtype, MaxLengthOption, SkipBadOption


def echoing() -> typer.Typer:
    """An application whose verb `train` tells what its options were."""
    application = typer.Typer(cls=OneLineErrors, pretty_exceptions_enable=False)

    @verb(panel="Panel", example="prudent train")
    def train(
        common: Common,
        *,
        num_std: Annotated[float, typer.Option("--num-std", min=0)] = 1.0,
        max_length: MaxLengthOption = None,
        skip_bad: SkipBadOption = False,
        dtype: Dtype = Dtype.float32,
        name: list[str] | None = None,
    ) -> Outcome:
        """Tell."""
        found = {"num_std": num_std, "max_length": max_length, "skip_bad": skip_bad, "dtype": dtype.value, "name": name}
        return Outcome(found, " ".join(map(str, found.values())))

    @verb(panel="Panel", example="prudent other")
    def other(common: Common) -> Outcome:
        """Be there."""
        return Outcome({}, "")

    train.add_to(application)
    other.add_to(application)
    return application


def run(tmp_path, content: str, *arguments: str):
    (tmp_path / "options.yaml").write_text(content, encoding="utf-8")
    return CliRunner().invoke(echoing(), ["train", "--config", str(tmp_path / "options.yaml"), *arguments])


def test_values_come_from_the_file_whether_with_dashes_or_underscores(tmp_path):
    result = run(tmp_path, "num-std: 2\nmax_length: 64\nskip_bad: true\ndtype: bfloat16\nname: [a, b]\n")
    assert result.stdout == "2.0 64 True bfloat16 ['a', 'b']\n"


def test_a_single_value_will_do_for_an_option_that_may_be_repeated(tmp_path):
    assert run(tmp_path, "name: ab\n").stdout.endswith("['ab']\n")


def test_the_command_line_wins(tmp_path):
    result = run(tmp_path, "num-std: 2\nmax-length: 64\n", "--num-std", "3")
    assert result.stdout == "3.0 64 False float32 None\n"


def test_the_command_line_wins_wherever_the_file_stands(tmp_path):
    (tmp_path / "options.yaml").write_text("num-std: 2\n")
    result = CliRunner().invoke(echoing(), ["train", "--num-std", "3", "--config", str(tmp_path / "options.yaml")])
    assert result.stdout.startswith("3.0 ")


def test_shared_options_may_stand_in_the_file(tmp_path):
    assert run(tmp_path, "json: true\n").stdout.startswith('{"num_std": 1.0')


def test_numbers_in_scientific_notation_that_yaml_reads_as_text_are_numbers(tmp_path):
    assert run(tmp_path, "num-std: 1e-2\n").stdout.startswith("0.01 ")


def test_an_empty_file_changes_nothing(tmp_path):
    assert run(tmp_path, "# nothing\n").stdout == "1.0 None False float32 None\n"


def test_an_unknown_key_is_an_error_that_names_the_nearest(tmp_path):
    result = run(tmp_path, "num_stds: 2\n")
    assert result.exit_code == 2
    assert result.stderr.endswith("unknown option 'num_stds' for 'prudent train'; did you mean 'num-std'?\n")
    assert result.stderr.count("\n") == 1


def test_a_key_that_resembles_none_lists_all(tmp_path):
    result = run(tmp_path, "zzzzzz: 2\n")
    assert result.exit_code == 2
    assert "it has debug, dtype, json, max-length" in result.stderr


def test_the_file_may_not_name_another_file(tmp_path):
    assert "unknown option 'config'" in run(tmp_path, "config: other.yaml\n").stderr


def test_bad_files_are_errors_on_one_line(tmp_path):
    for content, message in (
        ("num-std: [1\n", "not valid YAML"),
        ("- num-std\n", "expected 'option: value' lines, found a list"),
        ("num-std: {a: 1}\n", "option 'num-std' holds a mapping"),
        ("num-std: much\n", "Invalid value for '--num-std'"),
    ):
        result = run(tmp_path, content)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_an_absent_file_is_an_error(tmp_path):
    result = CliRunner().invoke(app, ["select", "--config", str(tmp_path / "absent.yaml")])
    assert result.exit_code == 2
    assert "cannot read the configuration file: No such file" in result.stderr


def test_required_options_may_come_from_the_file(tmp_path):
    (tmp_path / "options.yaml").write_text("data: absent.parquet\noutput: picks.jsonl\n")
    result = CliRunner().invoke(app, ["select", "--config", str(tmp_path / "options.yaml")])
    assert "Missing option" not in result.stderr
    assert "absent.parquet" in result.stderr
