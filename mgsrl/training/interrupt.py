"""How a run leaves when it cannot go on: the last whole step is saved, and how to go on is said.

Ctrl-C, SIGTERM and SIGUSR1 (what schedulers send before they kill) end a run at once wherever the
weights are those of a whole step, else when the step is whole (`cluster/signals.py`); then, or when
an error ended it, the learners save what they still hold. In all that takes at most
`checkpoint.grace_s`; a second signal leaves without it. Taking down the actors takes seconds more.
Left out: the rollouts of the step under way, which are made again from the same seeds.
"""

import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mgsrl.cluster import signals
from mgsrl.errors import NoUpdateError, one_line
from mgsrl.obs.rewind import last_logged_step
from mgsrl.training.checkpoint import checkpoint_steps
from mgsrl.training.run import Run


@contextmanager
def interruptible(folder: Path, command: Sequence[str]) -> Iterator[None]:
    """Run the block, the training of `folder`; an interruption is answered on standard error."""
    before = {}
    signals.forget()  # those of an earlier run of this process
    if threading.current_thread() is threading.main_thread():
        # A background shell's children ignore Ctrl-C: so they go on doing.
        own = {signal.SIGINT: signal.default_int_handler, signal.SIGUSR1: signal.SIG_DFL}
        before = {n: handler for n, handler in own.items() if signal.getsignal(n) == handler}
    for number in before:
        signal.signal(number, signals.on_signal)
    try:
        yield
    except KeyboardInterrupt:
        print(how_to_go_on(folder, command), file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def last_step_saved(run: Run) -> Iterator[None]:
    """Run the block; whatever ends it, the last whole step is saved if the learners still can."""
    try:
        yield
    except BaseException as error:
        grace_s = run.saver.config.grace_s
        with suppress(KeyboardInterrupt):  # what waited for the end of the step
            signals.release()
        # After steps without a finite update an older checkpoint may be the better one.
        if not (isinstance(error, NoUpdateError) or grace_s == 0 or signals.insisted()):
            _save(run, grace_s)
        raise


def _save(run: Run, grace_s: float) -> None:
    """Within `grace_s` seconds of the signal, if one came. It must not hide what ended the run."""
    told = signals.stopping()
    try:
        signals.start_limit(grace_s)
        saved = run.save_last_step()
        if saved is not None:
            run.console.note(f"the last whole step is saved: {saved}")
    except KeyboardInterrupt:
        why = f"checkpoint.grace_s={grace_s:g} is over" if told else "a signal"
        why = "a second signal" if signals.insisted() else why
        run.console.note(f"the last whole step was not saved: {why}")
    except Exception as error:
        run.console.note(f"the last whole step was not saved: {one_line(error)}")
    finally:
        signals.stop_limit()


def how_to_go_on(folder: Path, command: Sequence[str]) -> str:
    """From which step the run of `folder` goes on, and with which command.

    Args:
        command: what started it; empty for a configuration made in Python.
    """
    done = last_logged_step(folder)
    saved = max(checkpoint_steps(folder / "checkpoints"), default=0)
    anew = ("resume=never", "resume.checkpoint=never")
    again = (
        shlex.join(argument for argument in command if argument not in anew)
        or "mgsrl.train(config) with the same configuration"
    )
    if not saved:
        where = "no checkpoint was written yet (checkpoint.every): it begins where this run began"
    elif done > saved:
        steps = f"step {done}" if done == saved + 1 else f"steps {saved + 1} to {done}"
        where = f"it goes on from step {saved} (checkpoints/step_{saved}) and does {steps} again"
    else:
        where = f"it goes on from step {saved} (checkpoints/step_{saved})"
    return f"mgsrl: {done} steps are done. To go on: {again}\n       {where}"
