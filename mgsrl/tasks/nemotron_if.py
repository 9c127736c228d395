"""WildChat requests with IFEval's and IFEvalG's constraints, to train on."""

from mgsrl.tasks import Split, Task

TASK = Task(
    about="instruction following: WildChat requests with IFEval's and IFEvalG's constraints",
    reward={"kind": "constraints"},
    train=Split("nvidia/Nemotron-RL-instruction_following", "train", rows=46_391),
    licence="ODC-BY-1.0",
    unverified="the split's name",
)
