"""Ctrl-C and signals that end a run: heard at once, heeded where nothing is left by half.

The first signal raises `KeyboardInterrupt` in the main thread, except

- inside an import, and where Python drops exceptions (`insisting`): it comes again;
- between `hold` and `release`, where a step becomes whole or a checkpoint complete: there it waits
  for the release, but not longer than `limit`. A second signal does not wait.

Left out: SIGHUP (`nohup`, or a terminal multiplexer, is for those whose line may break).
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

AGAIN_S = 0.05
"""From a signal whose exception was dropped, or put off, to the next attempt."""
PACKAGE = str(Path(__file__).parents[1]) + os.sep
IMPORTER = "<frozen importlib._bootstrap>"
LONGEST_IMPORT_S = 20.0
"""After which a signal interrupts an import all the same."""


_signals: list[int] = []
"""Signals that arrived. Ray's calls make a plain KeyboardInterrupt of whatever interrupts them."""
_first_at = 0.0
"""When the first of them came, by the monotonic clock."""
_again = threading.Event()
"""A signal that was heard comes again: the next one is not news."""
_held = False
_waits = False
"""A signal came while it was held."""
_limit_s = 0.0
"""Seconds for which a signal may wait for the release."""
_timer: threading.Timer | None = None


def on_signal(signum: int, frame: FrameType | None) -> None:
    """A signal handler: end through every `finally`, as Python's own for Ctrl-C does, but say at
    once that it was heard."""
    _note_signal(signum)
    if not _put_off(signum, frame):
        raise KeyboardInterrupt(_name(signum))


def _name(signum: int) -> str:
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def _note_signal(signum: int) -> None:
    global _first_at
    if _again.is_set():
        _again.clear()
        return
    _signals.append(signum)
    if len(_signals) > 1:
        return
    _first_at = time.monotonic()
    # Not print: a signal may come in the middle of one, and its lock is not for twice.
    with suppress(OSError):
        told = "this takes some seconds, a second signal leaves at once"
        os.write(2, f"\nmgsrl: stopping ({_name(signum)}); {told}\n".encode())


def _put_off(signum: int, frame: FrameType | None) -> bool:
    """Whether the signal comes again, because `frame` is inside an import (a library that was
    imported by half is broken for the rest of the process), or is raised by `release`."""
    global _waits
    if _in_import(frame) and time.monotonic() - _first_at <= LONGEST_IMPORT_S:
        _send_again(signum)
        return True
    if _held and len(_signals) == 1 and time.monotonic() - _first_at < _limit_s:
        _waits = True
        start_limit(_limit_s)
        return True
    return False


def _in_import(frame: FrameType | None) -> bool:
    """Whether a function of ours waits for an import; who imported or called it does not matter."""
    importing = False
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE) and code.co_name != "<module>":
            return importing
        importing = importing or code.co_filename == IMPORTER
        frame = frame.f_back
    return False


def _send_again(signum: int) -> None:
    _again.set()
    threading.Timer(AGAIN_S, os.kill, [os.getpid(), signum]).start()


def hold(limit_s: float) -> None:
    """From here to `release` a first signal waits, for at most `limit_s` seconds."""
    global _held, _limit_s
    _held, _limit_s = True, limit_s


def release() -> None:
    """Raises KeyboardInterrupt if a signal waits."""
    global _held, _waits
    waited, _held, _waits = _waits, False, False
    if waited:
        stop_limit()
        raise KeyboardInterrupt


@contextmanager
def held(limit_s: float) -> Iterator[None]:
    """`hold` and `release` around a block; inside of another hold, its end does not release."""
    outer = _held
    if not outer:
        hold(limit_s)
    try:
        yield
    finally:
        if not outer:
            release()


def start_limit(limit_s: float) -> None:
    """The signal that came comes again when it is `limit_s` seconds old, and then does not wait."""
    global _timer
    if _timer is None and _signals:
        left = max(0.0, limit_s - (time.monotonic() - _first_at))
        _timer = threading.Timer(left, _remind, [_signals[0]])
        _timer.daemon = True
        _timer.start()


def stop_limit() -> None:
    """It does not come again."""
    global _timer
    timer, _timer = _timer, None
    if timer is not None:
        timer.cancel()


def _remind(signum: int) -> None:
    global _limit_s
    if _timer is not None:
        _limit_s = 0.0
        _again.set()
        os.kill(os.getpid(), signum)


def forget() -> None:
    """Another run of this process begins, or this one's training is over."""
    global _held, _waits
    _signals.clear()
    _again.clear()
    _held = _waits = False
    stop_limit()


def stopping() -> bool:
    """Whether a signal came."""
    return bool(_signals)


def insisted() -> bool:
    """Whether a second one came."""
    return len(_signals) > 1


def presses() -> bool:
    """Whether a signal waits for the release, and did so for half of the time that it may."""
    return _waits and time.monotonic() - _first_at > _limit_s / 2


def stopped_by() -> str:
    """Which signal a KeyboardInterrupt came from."""
    return _name(_signals[0]) if _signals else "Ctrl-C"


@contextmanager
def insisting() -> Iterator[None]:
    """Inside, a signal whose exception Python drops comes again, until it is heeded: what a handler
    raises in a weak reference's callback or in `__del__` goes to `sys.unraisablehook` alone."""
    before = sys.unraisablehook

    def come_again(dropped: "sys.UnraisableHookArgs") -> None:
        if not _signals or not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        _send_again(_signals[-1])

    sys.unraisablehook = come_again
    try:
        yield
    finally:
        sys.unraisablehook = before
