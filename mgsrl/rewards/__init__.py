"""Rewards: what one response is worth, and the actors that say so.

Start with `protocol.py`, then one reward: `math_verifier.py`, `constraint_checker.py`,
`reward_model.py`, `judge.py` or `http_reward.py`. `scorer.py` runs all of them at once during
training, `shaping.py` makes of their scores what is trained on and `contract.py` tries a reward on
golden cases. Scoring without training is in `mgsrl/scoring/`.
"""
