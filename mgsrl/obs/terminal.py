"""Output of commands: for people in a terminal, plain lines where it is piped or logged.

Without a terminal nothing is wrapped (a table's cell or a path cut in the middle cannot be searched
or copied), there are no control codes and no progress bars, neither ours nor those of libraries.
"""

import logging
import os
import select
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

UNWRAPPED = 100_000
"""Characters; wider than any line."""
NOISE = ("Setting accelerator to CPU",)
"""What DeepSpeed warns of at its import on every machine without a GPU."""


def output(file: TextIO | None = None) -> Any:
    """A `rich` console on `file` (standard output)."""
    import rich.console

    class Console(rich.console.Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError; rich would end the process here, without a word

    console = Console(file=file or sys.stdout, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = UNWRAPPED
    return console


def progress(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """`items` with a bar in a terminal."""
    from rich.progress import track

    console = output()
    yield from track(
        items, description, total=total, console=console, disable=not console.is_terminal
    )


def counted_progress(*columns: Any) -> Any:
    """A `rich` progress with what is done of how much, `columns` and the time left; in a terminal
    only."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console, first = output(), Progress.get_default_columns()[:2]
    shown = (*first, MofNCompleteColumn(), *columns, TimeRemainingColumn())
    return Progress(*shown, console=console, disable=not console.is_terminal)


def reader_is_gone() -> bool:
    """Whether nobody reads standard output any more (`mgsrl ... | head`).

    Then what is still to be written goes nowhere, at the interpreter's end too, and so do errors
    where they share its pipe (`2>&1 |`).
    """
    # Asked of the pipe: of what a failed write held, Python's buffers may keep nothing.
    poller = select.poll()
    poller.register(1, 0)
    if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poller.poll(0)):
        return False
    gone = os.fstat(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        if number == 1 or os.path.samestat(os.fstat(number), gone):
            os.dup2(nowhere, number)
    os.close(nowhere)
    return True


def quiet_libraries() -> None:
    """Keep libraries from writing between a command's lines; before they are imported."""
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: not any(text in record.getMessage() for text in NOISE)
    )
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' too
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
