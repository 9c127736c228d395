"""The contract of a task: its reward has the keys, and every row reads.

Left out: whether the answers are right ones, which nobody knows but you.
"""

from mgsrl.config.data import TASK_SPLITS, SourceConfig
from mgsrl.config.reward import RewardConfig
from mgsrl.config.task import Task, find_task
from mgsrl.config.typed import read_config
from mgsrl.data.rows import Row
from mgsrl.data.sources import load_rows
from mgsrl.errors import ContractError, UserError
from mgsrl.rewards.factory import row_needs
from mgsrl.testing.demand import demand


def check_task(task: str | Task, file: str = "") -> dict[str, list[Row]]:
    """Hold a task to what training, evaluation and scoring ask of it.

    Args:
        task: `my_task.py:TASK`, or the object.
        file: a local file to read instead of its data.

    Returns:
        Its rows by split, for you to look at.

    Raises:
        ContractError: no rows, a row that cannot be used, keys that the reward does not have.
    """
    try:
        found = find_task(task, "check_task") if isinstance(task, str) else task
        found = found.at(file) if file else found
        needs = row_needs(read_config(RewardConfig, found.reward))
        splits = [name for name in TASK_SPLITS if getattr(found, name) is not None]
        demand(bool(splits), f"The task {found.name}", "rows to train on or to evaluate with", None)
        return {
            name: load_rows(
                SourceConfig(kind="task", split=name),
                found.name,
                key="check_task",
                needs=needs,
                task=found,
            )
            for name in splits
        }
    except UserError as error:
        raise ContractError(str(error)) from error
