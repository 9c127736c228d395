"""The verdicts of the released checkers of IFEval and IFBench, quirks included.

A training reward may be better than the official checker; a benchmark's number may not differ from
it. Every constraint that the two decide differently has an entry here. IFBench's are those of its
repository of October 2025, by which its authors' published verdicts were made; package 0.2.0 has
changed about ten of them since and is not followed.
"""

from mgsrl.constraints.official import count, custom, format, ifeval, words
from mgsrl.constraints.official.registry import (
    OFFICIAL_CHECKS,
    OfficialCheck,
    difference_table,
    reading_of,
)

FAMILIES = (count, custom, format, ifeval, words)

__all__ = ["FAMILIES", "OFFICIAL_CHECKS", "OfficialCheck", "difference_table", "reading_of"]
