"""Rows of one's own with constraints."""

from mgsrl.tasks import Task

TASK = Task(
    about="instruction following: rows of your own: prompt, instruction_id_list, kwargs",
    reward={"kind": "constraints"},
    columns={"id": ("key", "id")},
    citation="rows of your own",
)
