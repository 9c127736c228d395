"""AIME 2024: 30 competition problems with whole numbers as answers."""

from mgsrl.tasks import BOXED, Sampling, Split, Task

TASK = Task(
    about="math: the American Invitational Mathematics Examinations of 2024",
    reward={"kind": "math"},
    test=Split("HuggingFaceH4/aime_2024", "train", rows=30),
    columns={"prompt": ("problem", "question", "prompt"), "answer": "answer", "id": ""},
    prompt_suffix=BOXED,
    samples=32,
    sampling=Sampling(temperature=0.6, max_new_tokens=8192, top_p=0.95),
    citation="MAA, AIME 2024",
)
