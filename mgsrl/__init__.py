"""mgsrl: multi-domain RL post-training with Modular Gradient Surgery (arXiv 2602.02301).

Read `types.py` for the vocabulary, then `train/loop.py` for the story.
"""

__version__ = "0.1.0"
