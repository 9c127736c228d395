"""MATH of levels 3 to 5, as SimpleRL-Zoo trains on it."""

from mgsrl.tasks import Split, Task

_FOLDER = "hkust-nlp/SimpleRL-Zoo-Data/simplelr_qwen_level3to5"
TASK = Task(
    about="math: MATH of levels 3 to 5, as SimpleRL-Zoo trains on it",
    reward={"kind": "math"},
    train=Split(f"{_FOLDER}/train.parquet", "train", rows=8_523),
    test=Split(f"{_FOLDER}/test.parquet", "train"),
    # Its own `prompt` holds another model's template.
    columns={"prompt": "question", "answer": "reward_model.ground_truth"},
    licence="Apache-2.0",
    citation="Zeng et al., arXiv 2503.18892",
    unverified="the answer's column; public code also reads `gt_answer`",
)
