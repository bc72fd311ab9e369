"""One progress bar for everything that takes longer than a moment: rate and time left, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["progress_bar", "progress_within"]

_WITHIN: ContextVar[tuple[str, ...]] = ContextVar("_WITHIN", default=())


class _RateColumn(ProgressColumn):
    """Units a second, or a dash until the first are done."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("-" if speed is None else f"{speed:,.1f} {self._unit}/s", style="progress.data.speed")


@contextmanager
def progress_bar(
    title: str, total: int | None, *, unit: str = "items", enabled: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and time left while the block runs.

    Args:
        title: what is being done, in a word or two.
        total: number of units, or None when it is not known (a stream).
        unit: the unit of the rate, such as `"responses"`.
        enabled: False shows nothing; the block runs all the same.

    Yields:
        A function that advances the bar by a number of units.

    Example:
        >>> with progress_bar("Adding", 3, enabled=False) as advance:
        ...     advance(3)
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        disable=not enabled,
    )
    with bar:
        task = bar.add_task(": ".join([*_WITHIN.get(), title]), total=total)
        # The rate is measured from the first advance on; without this it would leave out the first units' time.
        bar.advance(task, 0)
        yield lambda amount: bar.advance(task, amount)


@contextmanager
def progress_within(part: str) -> Iterator[None]:
    """Say before the titles of all bars inside the block which part of something larger they belong to.

    Args:
        part: for example `"member 2 of 5"`.

    Example:
        >>> with progress_within("member 2 of 5"), progress_bar("Training", 3, enabled=False) as advance:
        ...     advance(3)
    """
    token = _WITHIN.set((*_WITHIN.get(), part))
    try:
        yield
    finally:
        _WITHIN.reset(token)
