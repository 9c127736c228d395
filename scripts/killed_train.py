#!/usr/bin/env python
"""`mgsrl train` that is killed (SIGKILL) just before a chosen event: a trial of resuming.

An event is the beginning or the end of a stage (`begin rollout`, `end sync`), or a change that the
driver makes to a file of the run folder (`rename checkpoints/.step_#.#.tmp`, `open metrics.jsonl`;
`#` stands for a number). The stages are those that the console shows, the changes are seen by an
audit hook of Python: nothing of either is in the package.

    python scripts/killed_train.py --list events.txt run.dir=/tmp/r train.num_steps=2
    python scripts/killed_train.py --at 'begin surgery' --step 4 run.dir=/tmp/r train.num_steps=6
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mgsrl.cli import main as mgsrl  # noqa: E402
from mgsrl.obs.console import Console  # noqa: E402

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")
KILLED, UNMET = "killed before: ", "killed without having met the event"
START = 0
"""The step of all that comes before the first one."""


class Watch:
    """Counts events; at the chosen one the process ends."""

    def __init__(
        self, at: str, step: int | None, until: int, listing: Path | None, folder: Path
    ) -> None:
        self._at, self._at_step, self._until = at, step, until
        self._listing = listing.open("a") if listing is not None else None
        self._folder, self._pid, self._step = str(folder.resolve()) + "/", os.getpid(), START
        self._busy = False

    def event(self, name: str, step: int | None = None) -> None:
        """Note `name`; with `step` it says which step begins here."""
        if os.getpid() != self._pid or self._busy:  # a fork; or this writing of its own
            return
        self._step = step or self._step
        name = re.sub(r"\d+", "#", name)
        if self._listing is not None:
            self._busy = True
            self._listing.write(f"{self._step} {name}\n")
            self._listing.flush()
            self._busy = False
        here = name == self._at and self._at_step in (None, self._step)
        if here or 0 < self._until <= self._step:
            print(f"{KILLED}{name}" if here else UNMET, flush=True)
            os.kill(self._pid, signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python's audit hook: changes of the run folder are events."""
        if event == "open":
            path, mode, flags = arguments
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | bytes | Path):
            text = os.path.abspath(os.fsdecode(path))
            if text.startswith(self._folder):
                verb = event.rpartition(".")[2]
                self.event(f"{verb} {text.removeprefix(self._folder)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--at", default="", metavar="EVENT", help="the event before which it ends")
    parser.add_argument("--step", type=int, help=f"of this step ({START}: before the first)")
    parser.add_argument("--until", type=int, default=0, help="end at this step at the latest")
    parser.add_argument("--list", type=Path, metavar="FILE", help="write `STEP EVENT` of all there")
    options, overrides = parser.parse_known_args()
    folder = next(o.partition("=")[2] for o in overrides if o.startswith("run.dir="))
    watch = Watch(options.at, options.step, options.until, options.list, Path(folder))
    original = Console.stage

    @contextmanager
    def stage(self: Console, text: str, *, step: int | None = None) -> Iterator[None]:
        watch.event(f"begin {text}", step)
        with original(self, text, step=step):
            yield
        watch.event(f"end {text}")

    Console.stage = stage  # type: ignore[method-assign]
    sys.addaudithook(watch.audit)
    return mgsrl(["train", *overrides])


if __name__ == "__main__":
    sys.exit(main())
