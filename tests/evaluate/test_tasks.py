"""Every benchmark's layouts, and one message for whatever is wrong with tasks and data."""

import json
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config.task import TASKS, Split, find_task
from mgsrl.errors import ConfigError, DataError, MissingPathError
from mgsrl.evaluate.tasks import load_task, parse_tasks
from tests.oracle import published_file, published_rows

BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
CONSTRAINT = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def load(tmp_path: Path, task: str, *records: Any, limit: int | None = None) -> list[Any]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_task(parse_tasks(f"{task}={file}")[0], limit)


@pytest.mark.parametrize(
    ("task", "record", "prompt", "reference"),
    [
        ("gsm8k", {"question": "Q", "answer": "so\n#### 1,000"}, f"Q{BOXED}", {"answer": "1,000"}),
        ("gsm8k", {"question": "Q", "answer": "7"}, f"Q{BOXED}", {"answer": "7"}),
        ("math500", {"problem": "P", "answer": "1"}, f"P{BOXED}", {"answer": "1"}),
        ("aime24", {"problem": "P", "answer": "073"}, f"P{BOXED}", {"answer": "073"}),
        ("aime25", {"problem": "P", "answer": 70}, f"P{BOXED}", {"answer": "70"}),
        (
            "svamp",
            {"Body": "Tim has 2 pens", "Question": "How many?", "Answer": 2.0},
            f"Tim has 2 pens. How many?{BOXED}",
            {"answer": "2.0"},
        ),
        (
            "svamp",
            {"question_concat": "How many?", "Answer": "2.0"},
            f"How many?{BOXED}",
            {"answer": "2.0"},
        ),
        ("ifeval", {"key": 1000, "prompt": "P", **CONSTRAINT}, "P", CONSTRAINT),
        ("ifbench", {"key": "0", "prompt": "P", **CONSTRAINT}, "P", CONSTRAINT),
        ("alpaca_eval", {"instruction": "I", "output": "O"}, "I", {"baseline": "O"}),
        ("arena_hard", {"question_id": "a", "turns": [{"content": "T"}]}, "T", {}),
        ("mt_bench", {"question_id": 81, "turns": ["T", "U"]}, "T", {}),
        (
            "mt_bench",
            {"prompt_id": 1, "prompt": ["T", "U"], "reference": ["R"]},
            "T",
            {"reference": "R"},
        ),
        (
            "wildbench",
            {
                "session_id": "s",
                "conversation_input": [{"role": "user", "content": "C", "language": "English"}],
                "checklist": ["one", "two"],
            },
            "C",
            {"reference": "- one\n- two"},
        ),
        (
            "wildbench",
            {
                "conversation_input": [{"role": "user", "content": "C"}],
                "checklist": ["one"],
                "references": {"gpt-4": ["B"], "other": "O"},
            },
            "C",
            {"reference": "- one", "baseline": "B"},
        ),
        ("creative_writing", {"writing_prompt": "W"}, "W", {}),
        ("math", {"prompt": "P", "answer": 3}, "P", {"answer": "3"}),
        ("chat", {"prompt": "P", "baseline": "B"}, "P", {"baseline": "B"}),
    ],
)
def test_layouts(
    tmp_path: Path, task: str, record: dict[str, Any], prompt: str, reference: dict[str, Any]
) -> None:
    (row,) = load(tmp_path, task, record)
    assert row.messages[-1] == {"role": "user", "content": prompt}
    assert row.reference == reference


@pytest.mark.parametrize(
    "record",
    [
        {"conversation_input": ["hello"]},
        {"conversation_input": 3},
        {"conversation_input": [{"role": "user", "content": "C"}], "checklist": 4},
    ],
)
def test_rows_of_another_shape_are_named_by_line(tmp_path: Path, record: Any) -> None:
    good = {"conversation_input": [{"role": "user", "content": "C"}]}
    with pytest.raises(DataError, match="line 2: the row is not usable"):
        load(tmp_path, "wildbench", good, record)


def test_every_task_has_a_source_or_says_that_it_needs_a_file() -> None:
    for name in TASKS.names():
        task = find_task(name, "k")
        assert task.name == name
        assert task.about
        if task.test:
            assert parse_tasks(name)[0].test == task.test
        else:
            with pytest.raises(ConfigError, match=f"--tasks {name}=FILE"):
                parse_tasks(name)


def test_sources() -> None:
    file, hub, default = parse_tasks("gsm8k=x/y.parquet, svamp=owner/name:config, alpaca_eval")
    assert file.test == Split(file="x/y.parquet")
    assert hub.test == Split("owner/name:config", "test")
    # a file inside a hub repository is not taken for a local one
    assert default.test is not None
    assert (default.test.hub[-5:], default.test.split, default.test.file) == (".json", "train", "")


def test_the_own_hub_id_is_its_newest_revision() -> None:
    (task,) = parse_tasks("gsm8k=openai/gsm8k:main")
    assert (task.train, task.test) == (
        Split("openai/gsm8k:main", "train", rows=7473),
        Split("openai/gsm8k:main", "test", rows=1319),
    )


@pytest.mark.parametrize(
    ("tasks", "words"),
    [("gms8k", ["did you mean 'gsm8k'", "ifeval"]), ("gsm8k,gsm8k", ["twice"]), ("", ["valid:"])],
)
def test_unknown_and_repeated_tasks(tasks: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tasks(tasks)
    for word in words:
        assert word in str(caught.value)


def test_limit_and_repeated_prompts(tmp_path: Path) -> None:
    records = [{"question": f"Q{i // 4}", "answer": "1", "id": f"x{i}"} for i in range(40)]
    rows = load(tmp_path, "gsm8k", *records, limit=5)
    assert [row.id for row in rows] == ["1", "5", "9", "13", "17"]
    assert rows[4].messages[0]["content"].startswith("Q4")


@pytest.mark.parametrize(
    ("task", "record", "words"),
    [
        (
            "gsm8k",
            {"text": "Q"},
            ["rows.jsonl, line 2", "one of the columns question, prompt", "columns text"],
        ),
        ("math", {"prompt": "Q"}, ["line 2", "answer"]),
        (
            "ifeval",
            {"prompt": "P", "instruction_id_list": ["no:such"], "kwargs": [{}]},
            ["no:such"],
        ),
        ("chat", {"prompt": "P", "baseline": 3}, ["`baseline`, which is no text"]),
    ],
)
def test_bad_rows_are_named(
    tmp_path: Path, task: str, record: dict[str, Any], words: list[str]
) -> None:
    good = {"question": "Q", "prompt": "P", "answer": "1", **CONSTRAINT}
    with pytest.raises(DataError) as caught:
        load(tmp_path, task, good, record)
    for word in words:
        assert word in str(caught.value)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "P", "answer": "1"}\n{"prompt": \n')
    with pytest.raises(DataError, match="line 2"):
        load_task(parse_tasks(f"math={file}")[0])


def test_the_same_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every id once"):
        load(tmp_path, "ifeval", *[{"key": 1, "prompt": "P", **CONSTRAINT}] * 2)


def test_no_file_and_no_hub_show_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingPathError, match="no such data file"):
        load_task(parse_tasks("gsm8k=nowhere.jsonl")[0])
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(MissingPathError) as caught:
        load_task(parse_tasks("ifeval")[0])
    for word in ("google/IFEval", "ConnectError", "--tasks ifeval=FILE.jsonl"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("task", "file", "question"),
    [
        ("gsm8k", "oracle/gsm8k_labelled_5276.jsonl", "question"),  # each with four responses
        ("svamp", "math/svamp_test.jsonl", "ID"),
        ("ifeval", "if/ifeval_input.jsonl", "key"),
        ("ifbench", "if/ifbench_test.jsonl", "key"),
        ("mt_bench", "chat/mt_bench_questions.jsonl", "question_id"),
    ],
)
def test_published_files(task: str, file: str, question: str) -> None:
    questions = {row[question] for row in published_rows(file)}
    assert len(questions) >= 10
    assert len(load_task(parse_tasks(f"{task}={published_file(file)}")[0])) == len(questions)
