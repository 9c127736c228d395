"""Watching a run: stage timers, metrics, trackers, the console and the logs of the run folder."""
