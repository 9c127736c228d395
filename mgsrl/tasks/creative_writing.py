"""Creative Writing v3 of EQ-Bench: prompts are in its repository, not on the hub."""

from mgsrl.tasks import Sampling, Task

TASK = Task(
    about="chat: stories, scored by the criteria of a rubric",
    reward={"kind": "reward_model"},
    columns={"prompt": ("writing_prompt", "prompt"), "id": ""},
    samples=3,
    sampling=Sampling(temperature=0.7, max_new_tokens=4096),
    citation="Paech, EQ-Bench Creative Writing v3, arXiv 2312.06281",
)
