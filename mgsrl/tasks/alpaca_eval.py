"""AlpacaEval 2: the rows carry the baseline's answers as `output`."""

from mgsrl.tasks import Sampling, Split, Task

TASK = Task(
    about="chat: instructions, against the answers of GPT-4 Turbo",
    reward={"kind": "reward_model"},
    test=Split("tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json", "train", rows=805),
    columns={"prompt": ("instruction", "prompt"), "baseline": ("output", "baseline"), "id": ""},
    sampling=Sampling(temperature=0.7, max_new_tokens=2048),
    citation="Dubois et al., arXiv 2404.04475",
)
