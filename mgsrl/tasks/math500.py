"""MATH-500: the 500 problems of MATH that are held out by convention."""

from mgsrl.tasks import BOXED, Sampling, Split, Task

TASK = Task(
    about="math: 500 competition problems of MATH's test split",
    reward={"kind": "math"},
    test=Split(
        "HuggingFaceH4/MATH-500",
        "test",
        rows=500,
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    ),
    columns={"prompt": ("problem", "question", "prompt"), "answer": "answer", "id": ""},
    prompt_suffix=BOXED,
    sampling=Sampling(temperature=0.0, max_new_tokens=4096),
    licence="MIT",
    citation="Hendrycks et al., arXiv 2103.03874; Lightman et al., arXiv 2305.20050",
)
