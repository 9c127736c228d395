"""mgsrl: multi-domain RL post-training with Modular Gradient Surgery (arXiv 2602.02301).

Read `types.py` for the vocabulary, then `training/loop.py` for the story.
"""

import os

__version__ = "0.1.0"

# Ray reads this when it is imported: with it, a Ray that mgsrl starts on this machine listens on
# the loopback interface only (the variable's name speaks of the systems where that is the
# default). Joining a running cluster is not affected. Set it to 1 to have a local Ray reachable.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Without it a Ray call after the session's end (a thread that was still waiting) starts a new Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
