"""The pocket tasks: seeded, endless, offline prompts for the three domains.

`tasks.pocket_rows` makes prompts; `writer` and `pairs` make the texts that the bundled policy and
reward model were trained on (`scripts/build_pocket.py`, `reward_models/pocket/train.py`).
"""

from mgsrl.data.pocket.tasks import DOMAINS, SPLITS, pocket_rows

__all__ = ["DOMAINS", "SPLITS", "pocket_rows"]
