"""AIME 2025: as AIME 2024, with the problems of the next year."""

from dataclasses import replace

from mgsrl.tasks import Split
from mgsrl.tasks.aime24 import TASK as AIME24

TASK = replace(
    AIME24,
    about="math: the American Invitational Mathematics Examinations of 2025",
    test=Split("math-ai/aime25", "test", rows=30),
    citation="MAA, AIME 2025",
)
