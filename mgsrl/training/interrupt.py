"""Ctrl-C and SIGTERM during a run: said at once, and at the end how to go on.

Taking down the actors takes seconds, in which a silent terminal looks as if it had not heard.
Left out: saving a checkpoint on the way out. The step under way is not whole, and whoever sends a
signal wants the process to end.
"""

import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mgsrl.cluster.session import on_sigint
from mgsrl.obs.rewind import last_logged_step
from mgsrl.training.checkpoint import checkpoint_steps


@contextmanager
def interruptible(folder: Path, command: Sequence[str]) -> Iterator[None]:
    """Run the block, the training of `folder`; an interruption is answered on standard error."""
    heeded = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if heeded:  # a background shell's children ignore Ctrl-C: so they go on doing
        signal.signal(signal.SIGINT, on_sigint)
    try:
        yield
    except KeyboardInterrupt:
        print(how_to_go_on(folder, command), file=sys.stderr)
        raise
    finally:
        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def how_to_go_on(folder: Path, command: Sequence[str]) -> str:
    """From which step the run of `folder` goes on, and with which command.

    Args:
        command: what started it; empty for a configuration made in Python.
    """
    done = last_logged_step(folder)
    saved = max(checkpoint_steps(folder / "checkpoints"), default=0)
    rest = [argument for argument in command if not argument.startswith("resume=")]
    again = shlex.join(rest) or "mgsrl.train(config) with the same configuration"
    if not saved:
        where = "no checkpoint was written yet (checkpoint.every): it starts from the beginning"
    elif done > saved:
        steps = f"step {done}" if done == saved + 1 else f"steps {saved + 1} to {done}"
        where = f"it goes on from step {saved} (checkpoints/step_{saved}) and does {steps} again"
    else:
        where = f"it goes on from step {saved} (checkpoints/step_{saved})"
    return f"mgsrl: {done} steps are done. To go on: {again}\n       {where}"
