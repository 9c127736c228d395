"""Requests with IFEval's constraints from Nemotron's RL data, to train on.

The set that arXiv 2602.02301 draws its `instruction_following_subset_hard.parquet` from; which rows
those are was not published. `nemotron_if=nvidia/Nemotron-RL-instruction_following` reads the later
set of 46,391 rows, which has IFEvalG's constraints, too.
"""

from mgsrl.tasks import Split, Task

TASK = Task(
    about="instruction following: requests with IFEval's constraints, from Nemotron's RL data",
    reward={"kind": "constraints"},
    train=Split(
        "nvidia/Llama-Nemotron-Post-Training-Dataset:RL",
        "instruction_following",
        rows=56_339,
        revision="ab2a40d258a6a4d9d4c277d702aeea445081766c",
    ),
    columns={
        "prompt": ("input", "prompt"),
        "instruction_id_list": ("args.instruction_id_list", "instruction_id_list"),
        "kwargs": ("args.instruction_kwargs", "kwargs"),
    },
    licence="ODC-BY-1.0",
    citation="Bercovich et al., arXiv 2505.00949",
    unverified="the licence is what the rows say; the card of the whole set says CC-BY-4.0",
)
