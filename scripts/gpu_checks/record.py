"""What the checks of a section found, and what they measure with."""

import contextlib
import gc
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

GIB = 2**30
PIECE = 1 << 26
"""Elements that are taken to float64 at once: half a GiB."""


@dataclass(frozen=True)
class Figure:
    section: str
    name: str
    found: float | str
    unit: str = ""
    expected: str = ""
    """Empty for a measurement."""
    passed: bool = True


class Record:
    """The figures of one section, on disk after each one: a section may be killed."""

    def __init__(self, section: str, path: Path) -> None:
        self._section, self._path = section, path
        self._figures: list[Figure] = []

    def measure(self, name: str, found: float | str, unit: str = "") -> None:
        self._add(Figure(self._section, name, found, unit))

    def at_most(self, name: str, found: float, limit: float, unit: str = "") -> None:
        """A check; nan fails."""
        self._add(
            Figure(self._section, name, found, unit, f"at most {limit:g}", bool(found <= limit))
        )

    def equal(self, name: str, found: object, expected: object) -> None:
        self._add(
            Figure(self._section, name, str(found), "", str(expected), bool(found == expected))
        )

    @contextlib.contextmanager
    def caught(self, name: str) -> Iterator[None]:
        """An exception is a failed check, and the next one runs."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self._add(Figure(self._section, name, found, "", "no exception", False))
        release()

    def _add(self, figure: Figure) -> None:
        self._figures.append(figure)
        self._path.write_text(json.dumps([asdict(f) for f in self._figures]))


@dataclass(frozen=True)
class Setting:
    device: torch.device
    quick: bool
    scratch: Path
    """Shared by the sections."""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], repeats: int = 7) -> float:
        """Median wall time, the device's work included, after two calls that warm up."""
        times = []
        for _ in range(repeats + 2):
            self.wait()
            begin = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - begin)
        return sorted(times[2:])[repeats // 2]

    def kernel_seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Of the device's kernels alone in one call: what the processor does between them does not
        count. nan without a GPU."""
        if not self.on_gpu:
            return math.nan
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(repeats):
                work()
            self.wait()
        return sum(e.self_device_time_total for e in profile.key_averages()) / 1e6 / repeats


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of `expected`, in float64: piece by piece, since whole
    rows of a model in it fill a GPU."""
    error = size = 0.0
    pieces = (each.flatten().split(PIECE) for each in (found, expected))
    for a, b in zip(*pieces, strict=True):
        wide = b.double()
        error += (a.double() - wide).square().sum().item()
        size += wide.square().sum().item()
    return math.sqrt(error / size) if size else math.nan
