"""Rewards: what one response is worth, and the actors that say so.

Start with `protocol.py`, then one reward: `math_verifier.py`, `constraint_checker.py` or
`reward_model.py`. `scorer.py` runs all of them at once during training, `score_file.py`
without training.
"""
