"""One file per data set or benchmark; each holds its `TASK`, and its name is the file's.

`source.kind=task source.path=NAME` trains on it, `mgsrl eval --tasks NAME` evaluates with it,
`mgsrl score NAME` scores stored responses of it, `mgsrl data prepare NAME` fetches it. To add one,
write a file; one of your own outside the package is `my_task.py:TASK`.

The hub could not be reached where this was written. Ids, columns, licences and rows are from the
data sets' cards as other pages quote them and from public code that loads them; `unverified` says
what rests on less than that. Revisions are those that public evaluation code pins, and None (the
newest) where none is known.

Left out: few-shot prompts (the models here are instruction-tuned; `lm-eval` has them).
"""

from mgsrl.config.task import Split, Task
from mgsrl.data.layouts import RowProblem
from mgsrl.types import Sampling

BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
"""Ends the prompts of mathematics benchmarks."""

__all__ = ["BOXED", "RowProblem", "Sampling", "Split", "Task"]
