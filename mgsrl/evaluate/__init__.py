"""Scores on held-out prompts."""
