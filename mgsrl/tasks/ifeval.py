"""IFEval: verifiable instructions of 25 kinds."""

from mgsrl.tasks import Sampling, Split, Task

TASK = Task(
    about="instruction following: 25 kinds of verifiable instructions",
    # Published numbers come from a released checker.
    reward={"kind": "constraints", "reading": "official"},
    test=Split(
        "google/IFEval", "train", rows=541, revision="966cd89545d6b6acfd7638bc708b98261ca58e84"
    ),
    columns={"id": ("key", "id")},
    sampling=Sampling(temperature=0.0, max_new_tokens=1280),
    licence="Apache-2.0",
    citation="Zhou et al., arXiv 2311.07911",
)
