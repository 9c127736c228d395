"""The pocket tasks: seeded, endless, offline prompts for the three domains.

`tasks.pocket_rows` makes prompts. The texts that the bundled models were trained on are made where
these are built, in `scripts/pocket_texts/`.
"""

from mgsrl.data.pocket.tasks import DOMAINS, SPLITS, pocket_rows

__all__ = ["DOMAINS", "SPLITS", "pocket_rows"]
