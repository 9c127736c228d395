"""GRPO as pure tensor functions: advantages, KL estimators and the clipped loss."""
