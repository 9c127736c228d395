"""Prompts with up to five constraints, of IFBench's authors, to train on."""

from mgsrl.tasks import Split, Task
from mgsrl.tasks.rlvr_ifeval import rlvr_constraints

TASK = Task(
    about="instruction following: up to five of IFEval's and IFEvalG's constraints (IFBench)",
    reward={"kind": "constraints"},
    train=Split("allenai/IF_multi_constraints_upto5", "train", rows=95_373),
    convert=rlvr_constraints,
    columns={"messages": "messages", "id": "key"},
    licence="ODC-BY-1.0",
    citation="Pyatkin et al., arXiv 2507.02833",
    unverified="that every row's `ground_truth` is a literal",
)
