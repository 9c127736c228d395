"""IFBench: 58 kinds of constraints that training sets do not have."""

from mgsrl.tasks import Sampling, Split, Task

TASK = Task(
    about="instruction following: 58 kinds of constraints that no training set has",
    # Published numbers come from a released checker.
    reward={"kind": "constraints", "reading": "official"},
    test=Split("allenai/IFBench_test", "train", rows=300),
    columns={"id": ("key", "id")},
    sampling=Sampling(temperature=0.0, max_new_tokens=2048),
    licence="ODC-BY-1.0",
    citation="Pyatkin et al., arXiv 2507.02833",
)
