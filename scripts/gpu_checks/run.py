"""A run."""

from gpu_checks.record import Record, Setting


def run(setting: Setting, record: Record) -> None:
    record.measure("x", 1.0)
