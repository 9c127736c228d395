"""Where golden numbers of other libraries lie, if they are at hand."""

import os
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"


def oracle_file(name: str) -> Path:
    """`$MGSRL_ORACLES/NAME`, or a folder `shared` beside the repository; may not exist."""
    folder = os.environ.get("MGSRL_ORACLES")
    return Path(folder) / name if folder else SHARED / "data" / "oracle" / name
