"""The run: one loop, how it is built, its schedule and its checkpoints."""
