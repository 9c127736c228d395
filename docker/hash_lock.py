"""Prints the lock files with the SHA-256 of every file for the CPU image: `make image-lock`.

Reads pip's report of what it would install (`pip install --dry-run --report`). Hashes are of one
platform, the image's; `requirements.lock` itself serves two versions of Python.
"""

import json
import sys

from packaging.utils import canonicalize_name


def hashed(report: dict) -> list[str]:
    """Lines `NAME==VERSION --hash=sha256:...`."""
    lines = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        version = version.partition("+")[0]  # torch's CPU build, as the lock names it
        lines.append(f"{canonicalize_name(name)}=={version} --hash=sha256:{digest}")
    return sorted(lines)


if __name__ == "__main__":
    print("# Written by `make image-lock`; Python 3.11, x86-64, PyTorch's CPU build.")
    print("\n".join(hashed(json.load(sys.stdin))))
