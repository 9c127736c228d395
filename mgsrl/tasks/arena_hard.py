"""Arena-Hard v0.1: hard requests of real users, against a baseline's answers."""

from mgsrl.tasks import Sampling, Split, Task
from mgsrl.tasks.mt_bench import first_turn

TASK = Task(
    about="chat: hard requests of real users, against a baseline's answers",
    reward={"kind": "reward_model"},
    test=Split("lmarena-ai/arena-hard-auto/data/arena-hard-v0.1/question.jsonl", "train", rows=500),
    convert=first_turn,
    sampling=Sampling(temperature=0.0, max_new_tokens=4096),
    citation="Li et al., arXiv 2406.11939",
)
