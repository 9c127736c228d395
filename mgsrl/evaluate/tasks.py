"""The benchmarks: where each one's rows come from, how they read, and how they are sampled.

A task's `adapt` turns a record of the data set, in the layout of its hub id or of the files that
its authors publish, into our own columns (`prompt` or `messages`, `answer`, ...); records that
already have them pass. The kinds `math`, `instruction_following` and `chat` are tasks too, for
files of one's own.

Left out: few-shot prompts (the models here are instruction-tuned; `lm-eval` has them), second
turns of MT-Bench, and the official templates and baselines of the judge benchmarks. The hub ids
could not be tried where this was written; a local file always works.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsrl.config.data import SourceConfig
from mgsrl.config.reward import OFFICIAL, TRAINING
from mgsrl.data.rows import RowProblem
from mgsrl.errors import ConfigError, explain, nearest
from mgsrl.types import Sampling

Record = Mapping[str, Any]
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
GREEDY = Sampling(temperature=0.0, max_new_tokens=1024)
AIME_SAMPLING = Sampling(temperature=0.6, max_new_tokens=8192, top_p=0.95)
FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark."""

    name: str
    kind: str
    """`math` | `constraints` | `chat` (a reward model, a judge or both)."""
    adapt: Callable[[Record], Record]
    citation: str
    hub: str = ""
    """Hub id, `OWNER/NAME[:CONFIG]` or `OWNER/NAME/FILE`; empty: local files only."""
    split: str = "test"
    suffix: str = ""
    """Added to every prompt."""
    reading: str = TRAINING
    """`constraints`: `official` where published numbers come from a released checker."""
    distinct: bool = False
    """Rows with the prompt of an earlier row are left out: the file repeats its prompts."""
    samples: int = 1
    sampling: Sampling = GREEDY
    """Temperature 0 is greedy decoding."""


@dataclass(frozen=True, slots=True)
class TaskChoice:
    """A task as the user named it: `NAME` or `NAME=FILE_OR_HUB_ID`."""

    task: Task
    source: SourceConfig


def _column(record: Record, *names: str) -> Any:
    """The first of `names` that the record has."""
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise RowProblem(
        f"one of the columns {', '.join(names)}", f"the columns {', '.join(map(str, record))}"
    )


def _own_layout(record: Record) -> Record:
    return record


def _math(record: Record) -> Record:
    """Problem and answer under the names that the mathematics sets use."""
    return {
        "prompt": _column(record, "problem", "question", "prompt"),
        "answer": _column(record, "answer"),
    }


def _gsm8k(record: Record) -> Record:
    """The official rows end in `#### ANSWER`; flat ones hold the answer alone."""
    answer = str(_column(record, "answer"))
    return {
        "prompt": _column(record, "question", "prompt"),
        "answer": answer.rpartition("####")[2].strip(),
    }


def _svamp(record: Record) -> Record:
    """Body and question in one; some bodies lack the full stop."""
    if "question_concat" in record or "Body" not in record:
        prompt = _column(record, "question_concat", "question", "prompt")
    else:
        body = str(record["Body"]).strip()
        end = "" if body.endswith((".", ",", "!", "?", ";", ":")) else "."
        prompt = f"{body}{end} {_column(record, 'Question')}"
    return {"prompt": prompt, "answer": _column(record, "Answer", "result", "answer")}


def _constraints(record: Record) -> Record:
    return {**record, "id": str(record["key"])} if "key" in record else record


def _alpaca(record: Record) -> Record:
    """The evaluation set carries the baseline's answers as `output`."""
    adapted = {"prompt": _column(record, "instruction", "prompt")}
    return adapted | ({"baseline": record["output"]} if record.get("output") else {})


def _first_turn(record: Record) -> Record:
    """Arena-Hard and MT-Bench: `turns` or `prompt` list the user's turns; the first is taken."""
    turns = _column(record, "turns", "prompt")
    first = turns[0] if isinstance(turns, list) and turns else turns
    if isinstance(first, Mapping):
        first = first.get("content")
    adapted: dict[str, Any] = {"prompt": first}
    id_ = record.get("question_id", record.get("prompt_id", record.get("uid")))
    if id_ is not None:
        adapted["id"] = str(id_)
    reference = record.get("reference")
    if reference:
        adapted["reference"] = reference[0] if isinstance(reference, list) else reference
    return adapted


def _wildbench(record: Record) -> Record:
    """The conversation up to the last user turn, and the checklist as the judge's reference."""
    if "conversation_input" not in record:
        return record
    messages, checklist = record["conversation_input"], record.get("checklist") or []
    # What is no list of messages, or of criteria, is left as it is for the reader to refuse.
    if isinstance(messages, list) and all(isinstance(each, Mapping) for each in messages):
        messages = [{"role": each.get("role"), "content": each.get("content")} for each in messages]
    if isinstance(checklist, list):
        checklist = "\n".join(f"- {item}" for item in checklist)
    adapted = {"messages": messages, "id": record.get("session_id", record.get("id"))}
    return adapted | {"reference": checklist}


def _creative(record: Record) -> Record:
    return {"prompt": _column(record, "writing_prompt", "prompt")}


_TASKS = (
    Task(
        "gsm8k",
        "math",
        _gsm8k,
        "Cobbe et al., arXiv 2110.14168",
        hub="openai/gsm8k:main",
        suffix=BOXED,
        distinct=True,
    ),
    Task(
        "math500",
        "math",
        _math,
        "Hendrycks et al., arXiv 2103.03874; Lightman et al., arXiv 2305.20050",
        hub="HuggingFaceH4/MATH-500",
        suffix=BOXED,
        sampling=Sampling(temperature=0.0, max_new_tokens=4096),
    ),
    Task(
        "aime24",
        "math",
        _math,
        "MAA, AIME 2024",
        hub="HuggingFaceH4/aime_2024",
        split="train",
        suffix=BOXED,
        samples=32,
        sampling=AIME_SAMPLING,
    ),
    Task(
        "aime25",
        "math",
        _math,
        "MAA, AIME 2025",
        hub="math-ai/aime25",
        suffix=BOXED,
        samples=32,
        sampling=AIME_SAMPLING,
    ),
    Task(
        "svamp",
        "math",
        _svamp,
        "Patel et al., arXiv 2103.07191",
        hub="ChilleD/SVAMP",
        suffix=BOXED,
    ),
    Task(
        "ifeval",
        "constraints",
        _constraints,
        "Zhou et al., arXiv 2311.07911",
        hub="google/IFEval",
        split="train",
        reading=OFFICIAL,
        sampling=Sampling(temperature=0.0, max_new_tokens=1280),
    ),
    Task(
        "ifbench",
        "constraints",
        _constraints,
        "Pyatkin et al., arXiv 2507.02833",
        hub="allenai/IFBench_test",
        split="train",
        reading=OFFICIAL,
        sampling=Sampling(temperature=0.0, max_new_tokens=2048),
    ),
    Task(
        "alpaca_eval",
        "chat",
        _alpaca,
        "Dubois et al., arXiv 2404.04475",
        hub="tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json",
        split="train",
        sampling=Sampling(temperature=0.7, max_new_tokens=2048),
    ),
    Task(
        "arena_hard",
        "chat",
        _first_turn,
        "Li et al., arXiv 2406.11939",
        hub="lmarena-ai/arena-hard-auto/data/arena-hard-v0.1/question.jsonl",
        split="train",
        sampling=Sampling(temperature=0.0, max_new_tokens=4096),
    ),
    Task(
        "wildbench",
        "chat",
        _wildbench,
        "Lin et al., arXiv 2406.04770",
        hub="allenai/WildBench:v2",
        sampling=Sampling(temperature=0.0, max_new_tokens=4096),
    ),
    Task(
        "creative_writing",
        "chat",
        _creative,
        "Paech, EQ-Bench Creative Writing v3, arXiv 2312.06281",
        samples=3,
        sampling=Sampling(temperature=0.7, max_new_tokens=4096),
    ),
    Task(
        "mt_bench",
        "chat",
        _first_turn,
        "Zheng et al., arXiv 2306.05685",
        hub="HuggingFaceH4/mt_bench_prompts",
        split="train",
        sampling=Sampling(temperature=0.7, max_new_tokens=1024),
    ),
    Task("math", "math", _own_layout, "rows of your own: prompt, answer"),
    Task(
        "instruction_following",
        "constraints",
        _constraints,
        "rows of your own: prompt, instruction_id_list, kwargs",
    ),
    Task("chat", "chat", _own_layout, "rows of your own: prompt [, baseline, reference]"),
)
TASKS = {task.name: task for task in _TASKS}


def parse_tasks(text: str) -> list[TaskChoice]:
    """`gsm8k,ifeval=FILE,svamp=OWNER/NAME` -> tasks with their sources.

    Raises:
        ConfigError: an unknown task, one named twice, or one without data.
    """
    choices: dict[str, TaskChoice] = {}
    for item in text.split(","):
        name, _, where = (part.strip() for part in item.partition("="))
        if name not in TASKS or name in choices:
            raise ConfigError(
                explain(
                    "--tasks names a task twice." if name in choices else "Unknown task.",
                    expected="each task once" if name in choices else nearest(name, TASKS),
                    found=repr(name),
                    todo="mend --tasks, e.g. --tasks gsm8k,ifeval=ifeval.jsonl",
                )
            )
        task = TASKS[name]
        where = where or task.hub
        if not where:
            raise ConfigError(
                explain(
                    f"The task {name!r} has no data set on the hub.",
                    expected=f"a local file with {task.citation}"
                    if task.citation.startswith("rows")
                    else "a local file",
                    found="no file",
                    todo=f"--tasks {name}=FILE.jsonl",
                )
            )
        is_file = Path(where).suffix.lower() in FILE_SUFFIXES and where != task.hub
        split = task.split if where == task.hub else "test"
        source = SourceConfig(kind="file" if is_file else "hub", path=where, split=split)
        choices[name] = TaskChoice(task, source)
    return list(choices.values())
