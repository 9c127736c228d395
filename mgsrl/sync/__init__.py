"""Versioned weight publish (learner side) and receive (rollout side), and the proof of it."""
