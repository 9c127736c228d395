"""Loops that numba compiles, and where their machine code is kept.

The code of a loop is kept beside its source file (or in the user's cache folder), so that only the
first process on a machine pays the second that compiling takes. Imports numba: half a second, so
import this where a loop is needed.

Left out: numba's own threads. Theirs and PyTorch's would be two pools on the same cores.
"""

from collections.abc import Callable
from typing import Any

from llvmlite.binding import ffi
from numba import njit

# vLLM's CPU build looks through the attributes of everything in every module. LLVM's handle takes
# any name for a function of the library, `__dict__` too, and that ends the process's vLLM.
if hasattr(ffi.lib, "_fntab"):
    ffi.lib._fntab.setdefault("__dict__", {})


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit` with these options for a function that runs without Python's lock."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither folder can be written
            return njit(nogil=True, **options)(function)

    return decorate
