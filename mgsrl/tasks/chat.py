"""Requests of one's own."""

from mgsrl.tasks import Task

TASK = Task(
    about="chat: rows of your own: prompt [, baseline, reference]",
    reward={"kind": "reward_model"},
    citation="rows of your own",
)
