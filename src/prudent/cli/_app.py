"""The application: how a verb is declared, what every verb shares, and what an error looks like.

A verb is a function that takes `Common` first, then its own options, and returns an `Outcome`. `verb` registers it,
adds the options that all verbs share, silences the libraries underneath, keeps stdout for the result, and prints it.
`OneLineErrors` turns whatever a verb raises into one line on stderr and an exit code: 2 for what the user can mend,
130 for an interrupt, 1 for a defect of prudent. Nothing here imports torch, so `prudent --help` answers at once.
"""

import contextlib
import errno
import functools
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, ParamSpec

import typer
from typer.core import TyperCommand, TyperGroup

from prudent.cli._config import apply_config_file
from prudent.cli._console import Outcome, calm_libraries, show
from prudent.errors import PrudentError, UtilityError

__all__ = ["Common", "Verb", "app", "unwrapped", "verb"]

P = ParamSpec("P")

# Typer exports one of its usage errors alone; its base covers missing and unknown options as well.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

DEBUG_KEY = "prudent.debug"
TYPED_KEY = "prudent.typed"
RESUMES = {"train", "fit", "sample", "score", "align", "evaluate", "overopt", "demo"}
# How tokenizers and safetensors, written in Rust, report a full disk or a lacking permission: in any type.
RUST_OS_ERROR = re.compile(r"\(os error \d+\)")
# What other libraries raise for the user's own files or machine, by name, so that nothing heavy is imported for it.
FOREIGN_ERRORS = {
    "SafetensorError": "a safetensors file cannot be read or written",
    "ArrowInvalid": "a data file cannot be read",
    "OutOfMemoryError": "out of memory; lower --tokens-per-batch or --batch-size",
    "MemoryError": "out of memory; lower --tokens-per-batch or --batch-size",
}


def one_line(error: BaseException) -> str:
    """The message of an error on one line, however many it came with."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def explain(error: Exception, verb_name: str | None) -> tuple[str, int]:
    """What to print and the exit code for anything a verb can raise: one line, and of a utility the place below it."""
    if isinstance(error, UsageError):
        message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
        return f"{message} (see 'prudent {verb_name + ' ' if verb_name else ''}--help')", 2
    if isinstance(error, UtilityError):
        return str(error), error.exit_code  # which shows the place on lines of its own
    if isinstance(error, PrudentError):
        return one_line(error), error.exit_code
    if isinstance(error, OSError) or RUST_OS_ERROR.search(str(error)):
        return one_line(error), 2
    if type(error).__name__ in FOREIGN_ERRORS:
        return f"{FOREIGN_ERRORS[type(error).__name__]}: {one_line(error)}", 2
    place = f"prudent {verb_name}" if verb_name else "prudent"
    kind = type(error).__name__
    return f"a defect of prudent, not of your input: {kind}: {one_line(error)}; rerun '{place}' with --debug", 1


@contextlib.contextmanager
def errors_on_one_line(context: Any) -> Iterator[None]:
    """Turn what is raised inside into one line on stderr and an exit code, unless `--debug` asks for the traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        resumes = context.invoked_subcommand in RESUMES
        advice = (
            "the same command goes on from what was saved, if it had come so far"
            if resumes
            else "no half-written output is left"
        )
        typer.echo(f"error: interrupted; {advice}", err=True)
        raise typer.Exit(130) from None
    except Exception as error:  # the boundary of the program: what nobody foresaw is reported here
        if context.meta.get(DEBUG_KEY):
            raise
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # the reader of a pipe went away; Typer ends quietly
        message, exit_code = explain(error, context.invoked_subcommand)
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(exit_code) from None


class OneLineErrors(TyperGroup):
    """The group of verbs; every error of parsing or running passes through it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what stands before the verb."""
        with errors_on_one_line(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Parse and run the verb."""
        with errors_on_one_line(ctx):
            return super().invoke(ctx)


class OneValueEach(TyperCommand):
    """A verb; an option that takes one value is not given twice, where the last would win without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what stands after the verb."""
        ctx.meta[TYPED_KEY] = shlex.join(["prudent", ctx.info_name, *args])
        single = {
            name: option
            for option in self.params
            if not (getattr(option, "multiple", False) or getattr(option, "is_flag", False))
            for name in option.opts
        }
        given: set[str | None] = set()
        for token in args:
            option = single.get(token.partition("=")[0])
            if option is not None and option.name in given:
                raise typer.BadParameter(f"{option.opts[0]} takes one value, and is given twice")
            if option is not None:
                given.add(option.name)
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="prudent",
    cls=OneLineErrors,
    epilog="A first look, no data needed:  [bold]prudent demo[/bold]",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True)
class Common:
    """What the shared options say.

    Attributes:
        progress: Whether to show progress bars on stderr.
        typed: The command line, for records of how something was made.
    """

    progress: bool
    typed: str


def _remember_debug(context: typer.Context, value: bool) -> bool:
    context.meta[DEBUG_KEY] = value
    return value


def _shared(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


PANEL = "All verbs"
SHARED_OPTIONS = [
    inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
    _shared(
        "config",
        Annotated[
            str | None,
            typer.Option(
                "--config",
                metavar="FILE.yaml",
                help="Options by name in a flat YAML file, as in 'quiet: true'; the command line wins.",
                callback=apply_config_file,
                is_eager=True,
                rich_help_panel=PANEL,
            ),
        ],
        None,
    ),
    _shared(
        "as_json",
        Annotated[
            bool,
            typer.Option("--json", help="Print the result as one JSON object on stdout.", rich_help_panel=PANEL),
        ],
        False,
    ),
    _shared(
        "quiet",
        Annotated[bool, typer.Option("--quiet", help="No progress bars or notes on stderr.", rich_help_panel=PANEL)],
        False,
    ),
    _shared(
        "debug",
        Annotated[
            bool,
            typer.Option(
                "--debug",
                help="Show the traceback of an error and what the libraries underneath say.",
                callback=_remember_debug,
                is_eager=True,
                rich_help_panel=PANEL,
            ),
        ],
        False,
    ),
]


def unwrapped(text: str) -> str:
    """Paragraphs as single lines, which the terminal's width then wraps."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


@dataclass(frozen=True)
class Verb:
    """A verb that is declared but not yet part of the application.

    Attributes:
        command: The function that Typer reads: the verb's own options and the shared ones.
        panel: The heading that the verb stands under in `prudent --help`.
        epilog: The end of the verb's help.
    """

    command: Callable[..., None]
    panel: str
    epilog: str

    def add_to(self, application: typer.Typer) -> None:
        """Make the verb part of an application."""
        add = application.command(
            name=self.command.__name__,
            cls=OneValueEach,
            help=unwrapped(inspect.getdoc(self.command) or ""),
            epilog=self.epilog,
            rich_help_panel=self.panel,
        )
        add(self.command)


def verb(*, panel: str, example: str) -> Callable[[Callable[Concatenate[Common, P], Outcome]], Verb]:
    """Declare a function as a verb of the command line.

    Args:
        panel: The heading that the verb stands under in `prudent --help`.
        example: Command lines shown at the end of the verb's help, one a line.

    Returns:
        A decorator. The function's name is the verb, its docstring the help, and its parameters after `Common` the
        options; it returns what to print.
    """
    lines = "\n\n".join(f"  [cyan]{' '.join(line.split())}[/cyan]" for line in example.strip().splitlines())

    def declare(function: Callable[Concatenate[Common, P], Outcome]) -> Verb:
        @functools.wraps(function)
        def command(**options: Any) -> None:
            options.pop("config")
            typed = options.pop("context").meta[TYPED_KEY]
            as_json, quiet, debug = (options.pop(name) for name in ("as_json", "quiet", "debug"))
            # Libraries print to stdout (the Trainer prints its metrics), which belongs to the result.
            # Of the processes that `torchrun` or `accelerate launch` starts, one speaks.
            speaks = os.environ.get("RANK", "0") == "0" or int(os.environ.get("WORLD_SIZE", "1")) < 2
            with calm_libraries(quiet=quiet or not speaks, debug=debug), contextlib.redirect_stdout(sys.stderr):
                outcome = function(Common(progress=not quiet, typed=typed), **options)  # type: ignore[call-arg]
            if speaks:
                show(outcome, as_json=as_json)

        own = list(inspect.signature(function).parameters.values())[1:]
        parameters = [*own, *SHARED_OPTIONS]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return Verb(command, panel, f"[bold]Example[/bold]\n\n{lines}")

    return declare
