"""Prints constraints for pip: what is installed stays, and the rest comes as lock files pin it.

python3 docker/constraints.py requirements.lock ... >constraints.txt
"""

import re
import sys
from importlib import metadata
from pathlib import Path


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(locks: list[str], installed: dict[str, str]) -> list[str]:
    """Lines `NAME==VERSION`.

    Args:
        locks: texts of lock files.
        installed: version of every installed distribution.
    """
    pins = {canonical(name): version for name, version in installed.items()}
    for line in "\n".join(locks).splitlines():
        name, found, version = line.partition("==")
        if found and not line.startswith("#"):
            pins.setdefault(canonical(name), version.strip())
    return [f"{name}=={version}" for name, version in sorted(pins.items())]


if __name__ == "__main__":
    here = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    print("\n".join(constraints([Path(path).read_text() for path in sys.argv[1:]], here)))
