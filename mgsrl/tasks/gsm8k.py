"""GSM8K: grade school word problems."""

from mgsrl.tasks import BOXED, Split, Task

_HUB, _REVISION = "openai/gsm8k:main", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c"
TASK = Task(
    about="math: grade school word problems",
    reward={"kind": "math"},
    train=Split(_HUB, "train", rows=7_473, revision=_REVISION),
    test=Split(_HUB, "test", rows=1_319, revision=_REVISION),
    # Flat rows hold the answer alone; of official ones it is what stands behind "####".
    columns={"prompt": ("question", "prompt"), "answer": "answer", "id": ""},
    prompt_suffix=BOXED,
    distinct=True,
    licence="MIT",
    citation="Cobbe et al., arXiv 2110.14168",
)
