"""A user's task: the file that docs/data.md shows, in a folder of its own, in every command."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mgsrl.cli import main
from mgsrl.config.compose import compose_config
from mgsrl.data.task_rows import adapted
from mgsrl.errors import ContractError
from mgsrl.tasks import RowProblem, Task
from mgsrl.testing import check_task
from mgsrl.training.plan import plan
from tests.oracle import published_file
from tests.training.runs import train

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data.md"
TASK = "my_task.py:TASK"
ALONE = ("~domains.chat", "~domains.instruction_following")
SUFFIX = "\nGive the final answer in \\boxed{}."
SOURCE = {
    f"domains.math.{part}.{key}={value}"
    for part, split in (("source", "train"), ("heldout", "test"))
    for key, value in (("kind", "task"), ("path", TASK), ("split", split))
}
MINE = [*sorted(SOURCE), *ALONE]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's file, and rows under both of the names that it maps."""
    monkeypatch.chdir(tmp_path)
    (block,) = [
        text
        for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
        if "TASK = Task(" in text
    ]
    (tmp_path / "my_task.py").write_text(block)
    for name, answer, first in (("sums", "result", 0), ("sums_test", "answer", 90)):
        rows = [
            {"question": f"What is {n} + 1?", answer: n + 1, "response": f"<response>{n + 1}"}
            for n in range(first, first + 8)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text.replace('"}', '</response>"}'))
    return tmp_path


def test_training_reads_it(folder: Path) -> None:
    config = compose_config([*MINE, "domains.math.reward.weight=2"])
    assert (config.domains["math"].reward.kind, config.domains["math"].reward.weight) == ("math", 2)
    ready = plan(config)
    (prompts, *_), (heldout, *_) = ready.prompts["math"], ready.heldout["math"]
    assert prompts.messages[-1]["content"] == f"What is 0 + 1?{SUFFIX}"
    assert (prompts.reference, heldout.reference) == ({"answer": "1"}, {"answer": "91"})


def test_the_keys_of_its_reward_are_the_domains(folder: Path) -> None:
    text = (folder / "my_task.py").read_text()
    reward = '{"kind": "constraints", "credit": "all"}'
    (folder / "my_task.py").write_text(text.replace('{"kind": "math"}', reward))
    source = f"{{kind: task, path: {TASK}}}"
    new = compose_config([*ALONE, f"+domains.mine={{source: {source}}}"]).domains["mine"]
    assert (new.reward.kind, new.reward.options.credit) == ("constraints", "all")
    own = f"{{source: {source}, reward: {{kind: math}}}}"
    assert compose_config([*ALONE, f"+domains.mine={own}"]).domains["mine"].reward.kind == "math"


def test_commands_for_data_and_the_machine(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "inspect", *MINE, "--against", "heldout"]) == 0
    assert "sums.jsonl: 8 of 8 rows usable" in capsys.readouterr().out
    assert main(["data", "prepare", TASK]) == 0
    first = json.loads(Path("data/my_task.jsonl").read_text().splitlines()[0])
    assert first == {"id": "my_task-1", "prompt": "What is 0 + 1?", "answer": "1"}
    assert main(["doctor", *MINE]) == 0
    assert main(["doctor", "rewards", *MINE]) == 0


def test_evaluation(folder: Path) -> None:
    options = ["--engine", "transformers", "--max-new-tokens", "24", "--output", "out"]
    assert main(["eval", "--model", "pocket", "--tasks", f"{TASK}", *options]) == 0
    results = json.loads(Path("out/results.json").read_text())["tasks"]["my_task"]
    assert (results["prompts"], results["source"]) == (8, "sums_test.jsonl")
    assert list(results["metrics"]) == ["avg@1"]


def test_scoring(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", TASK, "sums.jsonl", "scores.jsonl"]) == 0
    assert "8 rows, mean reward 1.0000, 0 abstained" in capsys.readouterr().out
    assert main(["score", "my_task.py:Split", "sums.jsonl", "x.jsonl"]) == 2


REWARD = """
from mgsrl.rewards.protocol import BaseReward
from mgsrl.types import Reward

class Longer(BaseReward):
    requires = ("words",)

    def score(self, items):
        return [Reward(float(len(item.text.split()) >= item.reference["words"])) for item in items]
"""


def test_a_reward_of_ones_own(folder: Path) -> None:
    """Its column reaches it; an evaluation sums it up as the mean."""
    text = (folder / "my_task.py").read_text()
    text = text.replace('{"kind": "math"}', '{"kind": "my_task.py:Longer"}') + REWARD
    text = text.replace('"answer": ("result", "answer")', '"words": ("result", "answer")')
    (folder / "my_task.py").write_text(text)
    new = f"+domains.mine={{source: {{kind: task, path: {TASK}}}}}"
    prompts = plan(compose_config(["~domains.chat", new])).prompts["mine"]
    assert [prompt.reference for prompt in prompts[:2]] == [{"words": 1}, {"words": 2}]
    options = ["--engine", "transformers", "--max-new-tokens", "8", "--output", "out"]
    assert main(["eval", "--model", "pocket", "--tasks", TASK, *options]) == 0
    results = json.loads(Path("out/results.json").read_text())["tasks"]["my_task"]
    assert results["metrics"]["score"]["value"] == 0.0  # nobody writes 91 words in 8 tokens
    assert main(["score", TASK, "sums.jsonl", "scores.jsonl", "--whole-response"]) == 0
    scores = [json.loads(line)["reward"] for line in Path("scores.jsonl").read_text().splitlines()]
    assert scores == [1.0] + [0.0] * 7


def test_its_contract(folder: Path) -> None:
    rows = check_task(TASK)
    assert {name: len(split) for name, split in rows.items()} == {"train": 8, "test": 8}
    assert len(check_task(TASK, "sums.jsonl")["test"]) == 8
    text = (folder / "my_task.py").read_text()
    cases = (
        ('"question"', '"prompt"', "one of the columns prompt"),
        ('"answer": ("result", "answer")', '"id": "question"', "the answer of a math task"),
        ('{"kind": "math"}', '{"kind": "math", "credit": "all"}', "credit is for constraints"),
        ("sums_test.jsonl", "sums_tset.jsonl", "sums_tset.jsonl"),
    )
    for number, (found, other, words) in enumerate(cases):
        name = f"other{number}.py"
        (folder / name).write_text(text.replace(found, other))
        with pytest.raises(ContractError, match=words):
            check_task(f"{name}:TASK")


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("gsm8k", "math/gsm8k_train.jsonl"),
        ("svamp", "math/svamp_test.jsonl"),
        ("ifeval", "if/ifeval_input.jsonl"),
    ],
)
def test_ours_keep_it(task: str, file: str) -> None:
    assert check_task(task, str(published_file(file)))


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_two_steps_of_training(folder: Path) -> None:
    train(folder / "run", *MINE, "train.num_steps=2", "checkpoint.every=2")
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert "reward/math" in rows[0]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("my_tsk.py:TASK", ["the file my_tsk.py"]),
        ("my_task.py:TAKS", ["'TAKS' in my_task.py", "did you mean 'TASK'"]),
        ("my_task.py:Split", ["my_task.py:Split is no task", "a mgsrl.tasks.Task"]),
        ("gsm9k", ["names no task", "did you mean 'gsm8k'"]),
        ("math500", ["no rows of its own for train", "source.file=FILE.jsonl"]),
    ],
)
def test_mistakes(
    folder: Path, task: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["domains.math.source.kind=task", f"domains.math.source.path={task}"]
    assert main(["data", "inspect", *overrides]) == 2
    error = capsys.readouterr().err
    for word in [*words, "domains.math.source", "to do:"]:
        assert word in error


def test_what_a_task_says_is_not_said_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ("columns.prompt=q", "answer_pattern='(x)'", "split=heldout"):
        assert main(["data", "inspect", *MINE, f"domains.math.source.{more}"]) == 2
        assert f"domains.math.source.{more.partition('=')[0].split('.')[0]}" in (
            capsys.readouterr().err
        )
    assert main(["data", "inspect", "domains.math.source.file=rows.jsonl"]) == 2
    assert "kind=task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"reward": "math"}, "reward should be of type Mapping"),
        ({"columns": {"answer": 5}}, "columns"),
        ({"prompt_suffix": 7}, "prompt_suffix should be of type str, found 7"),
        ({"train": "sums.jsonl"}, "train should be of type Split or NoneType"),
        ({"samples": 0}, "samples should be 1 or more"),
        ({"convert": 3}, "convert should be of type Callable"),
    ],
)
def test_a_wrong_field_is_told_where_the_task_is_written(
    wrong: dict[str, object], said: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        Task(**({"about": "sums", "reward": {"kind": "math"}} | wrong))


@pytest.mark.parametrize("convert", [lambda row: 1 / 0, lambda row: None])
def test_a_row_that_convert_does_not_take_is_not_usable(convert: Callable[..., object]) -> None:
    task = Task(about="sums", reward={"kind": "math"}, convert=convert)
    with pytest.raises(RowProblem, match="`convert`"):
        adapted(task, {"question": "1 + 1?"})
