"""mgsrl: multi-domain RL post-training with Modular Gradient Surgery (arXiv 2602.02301).

From Python: `train` runs a training, `load_run` reads what a run left behind, `surgery` serves any
other trainer (`docs/python_api.md`). All of it is imported when it is first used, so that
`import mgsrl` costs nothing. To read the code begin with `types.py` for the vocabulary, then
`training/loop.py` for the story.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgsrl import surgery
    from mgsrl.api import RunFolder, load_run, train
    from mgsrl.config import Config
    from mgsrl.config.compose import compose_config
    from mgsrl.errors import MgsrlError, UserError
    from mgsrl.probe import SurgeryProbe

__version__ = "0.1.0"
__all__ = [
    "Config",
    "MgsrlError",
    "RunFolder",
    "SurgeryProbe",
    "UserError",
    "compose_config",
    "load_run",
    "surgery",
    "train",
]

# Ray reads this when it is imported: with it, a Ray that mgsrl starts on this machine listens on
# the loopback interface only (the variable's name speaks of the systems where that is the
# default). Joining a running cluster is not affected. Set it to 1 to have a local Ray reachable.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Without it a Ray call after the session's end (a thread that was still waiting) starts a new Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

_HOMES = {
    "Config": "mgsrl.config",
    "MgsrlError": "mgsrl.errors",
    "RunFolder": "mgsrl.api",
    "SurgeryProbe": "mgsrl.probe",
    "UserError": "mgsrl.errors",
    "compose_config": "mgsrl.config.compose",
    "load_run": "mgsrl.api",
    "train": "mgsrl.api",
}
"""Where the names of `__all__` are; those that are missing are rooms."""

if not TYPE_CHECKING:  # a type checker would take any name for known

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'mgsrl' has no attribute {name!r}")
        home = import_module(_HOMES.get(name, f"mgsrl.{name}"))
        return getattr(home, name) if name in _HOMES else home

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
