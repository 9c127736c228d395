"""Published sets: converted files load without a mapping; the hub's absence is one clear error."""

import doctest
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from omegaconf import OmegaConf

from mgsrl.cli import main
from mgsrl.config import Config, SourceConfig
from mgsrl.config.task import TASKS, find_task
from mgsrl.config.typed import read_config
from mgsrl.constraints import REGISTRY, bind, validate_reference
from mgsrl.data.rows import RowProblem
from mgsrl.data.sources import load_rows
from mgsrl.evaluate.tasks import load_task
from mgsrl.tasks import math
from mgsrl.tasks.math import boxed_answer
from mgsrl.tasks.rlvr_ifeval import FUNCTIONS, rlvr_constraints
from tests.data import fake_hub
from tests.oracle import published_file, published_rows
from tests.rewards.loaded import needs_of

ROOT = Path(__file__).resolve().parents[2]


def prepare(name: str, file: Path, folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """The rows as our loader reads them without a mapping, and the provenance."""
    assert main(["data", "prepare", name, "--from", str(file), "--output", str(folder)]) == 0
    path = folder / f"{name}.jsonl"
    kind = find_task(name, "k").reward["kind"]
    source = SourceConfig(kind="file", path=str(path))
    rows = load_rows(source, name, key="k", needs=needs_of(kind))
    provenance = json.loads((folder / f"{name}.provenance.json").read_text())
    assert provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert provenance["rows"] == len(rows)
    assert provenance["licence"]
    return rows, provenance


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("wildchat_if", "chat/wildchat_if_train.parquet"),
        ("gsm8k", "math/gsm8k_train.jsonl"),
        ("math", "math/math_train_rllm.json"),
        ("if_multi", "if/synthetic_if_train.jsonl"),
        ("nemotron_if", "if/nemogym_if_example.jsonl"),
    ],
)
def test_local_files_are_converted(name: str, file: str, tmp_path: Path) -> None:
    read, provenance = prepare(name, published_file(file), tmp_path)
    theirs = published_rows(file)
    empty = [row for row in theirs if name == "math" and not row["answer"]]
    assert (name == "math") is bool(empty)  # a few have no answer
    assert len(read) == len(theirs) - len(empty)
    assert sum(provenance["left_out"].values()) == len(empty)
    digest = hashlib.sha256(published_file(file).read_bytes()).hexdigest()
    assert provenance["file_sha256"] == digest


def test_simplerl_is_read_beside_its_own_template(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    row = {"prompt": "<|im_start|>", "question": "1+1?", "reward_model": {"ground_truth": "2"}}
    empty = {**row, "reward_model": {"ground_truth": ""}}
    file.write_text(f"{json.dumps(row)}\n{json.dumps(empty)}\n")
    (read,), provenance = prepare("simplerl", file, tmp_path / "out")
    assert (read.messages[0]["content"], read.reference) == ("1+1?", {"answer": "2"})
    assert list(provenance["left_out"].values()) == [1]


@pytest.mark.parametrize(
    ("name", "row", "texts"),
    [
        ("alpaca_eval", {"instruction": "I", "output": "O"}, {"baseline": "O"}),
        (
            "wildbench",
            {
                "conversation_input": [{"role": "user", "content": "C"}],
                "checklist": ["one"],
                "references": {"gpt-4": "B"},
            },
            {"reference": "- one", "baseline": "B"},
        ),
        ("mt_bench", {"prompt": ["T", "U"], "reference": ["R"]}, {"reference": "R"}),
    ],
)
def test_texts_for_a_judge_are_kept(
    name: str, row: dict[str, Any], texts: dict[str, str], tmp_path: Path
) -> None:
    """An evaluation of the prepared file is one of the published file."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    assert main(["data", "prepare", name, "--from", str(file), "--output", str(tmp_path)]) == 0
    read = [
        load_task(find_task(name, "k", str(each)))[0] for each in (file, tmp_path / f"{name}.jsonl")
    ]
    assert read[0].reference == read[1].reference == texts
    assert read[0].messages == read[1].messages


def test_nemotron_rows_are_read(tmp_path: Path) -> None:
    """The layout of Llama-Nemotron's RL data; that of the later set is among the files above."""
    args = {"instruction_id_list": ["punctuation:no_comma"], "instruction_kwargs": [{"n": None}]}
    row = {"input": [{"role": "user", "content": "Write."}], "args": args, "license": "odc-by"}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    (read,), _ = prepare("nemotron_if", file, tmp_path / "out")
    assert read.messages[0]["content"] == "Write."
    assert read.reference["instruction_id_list"] == ["punctuation:no_comma"]


def test_ids_that_come_twice_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"id": 7, "prompt": "a", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    file.write_text(f"{json.dumps(row)}\n" * 2)
    rows, _ = prepare("nemotron_if", file, tmp_path)
    assert [row.id for row in rows] == ["7", "7-2"]


# --- conversions ----------------------------------------------------------------------------------


def test_documentation_examples() -> None:
    outcome = doctest.testmod(math)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("solution", ["no box", r"\boxed{1", None])
def test_a_solution_without_an_answer_is_refused(solution: object) -> None:
    with pytest.raises(RowProblem, match="boxed"):
        boxed_answer({"problem": "x?", "solution": solution})


@pytest.mark.parametrize(
    ("truth", "id_", "kwargs"),
    [
        ({"func_name": "validate_no_commas", "N": None}, "punctuation:no_comma", {}),
        (
            {"func_name": "verify_keyword_frequency", "word": "tea", "N": 2, "options": None},
            "keywords:frequency",
            {"keyword": "tea", "frequency": 2, "relation": "exactly"},
        ),
        (
            {"func_name": "validate_word_constraint", "N": 50, "quantifier": "at most"},
            "length_constraints:number_words",
            {"num_words": 50, "relation": "at most"},
        ),
        (
            [{"instruction_id": ["punctuation:no_comma"], "kwargs": [None]}],
            "punctuation:no_comma",
            None,
        ),
    ],
)
def test_rlvr_checks_become_constraints(truth: object, id_: str, kwargs: object) -> None:
    row = rlvr_constraints({"messages": [], "ground_truth": json.dumps(truth)})
    assert (row["instruction_id_list"], row["kwargs"]) == ([id_], [kwargs])
    bind(id_, kwargs)


def test_constraints_may_be_a_python_literal() -> None:
    truth = "[{'instruction_id': ['keywords:existence'], 'kwargs': [{'keywords': ['tea']}]}]"
    row = rlvr_constraints({"messages": [], "ground_truth": truth})
    validate_reference(row)
    assert row["instruction_id_list"] == ["keywords:existence"]
    assert row["kwargs"] == [{"keywords": ["tea"]}]


def test_rlvr_files_are_converted(tmp_path: Path) -> None:
    truths = [
        {"func_name": "validate_lowercase", "N": None},
        {"func_name": "verify_sentence_constraint", "N": 5, "quantifier": "around"},
        {"func_name": "validate_choice", "options": ["a", "b"]},
    ]
    file = tmp_path / "rows.jsonl"
    message = {"role": "user", "content": "Name a tree. Use no capital letters."}
    rows = [{"messages": [message], "ground_truth": json.dumps(truth)} for truth in truths]
    file.write_text("\n".join(map(json.dumps, rows)))
    (row,), provenance = prepare("rlvr_ifeval", file, tmp_path)
    assert (row.id, row.messages) == ("rlvr_ifeval-1", (message,))
    assert row.reference["instruction_id_list"] == ["change_case:english_lowercase"]
    assert sum(provenance["left_out"].values()) == 2


def test_rlvr_paragraphs_ask_for_the_divider_that_is_checked() -> None:
    truth = json.dumps({"func_name": "verify_paragraph_count", "N": 3})
    message = {"role": "user", "content": "There should be 3 paragraphs, divided by * * *"}
    row = rlvr_constraints({"messages": [message], "ground_truth": truth})
    assert row["messages"][0]["content"].endswith("divided by ***")


def test_rlvr_rows_without_messages_are_left_out(tmp_path: Path) -> None:
    truth = json.dumps({"func_name": "verify_paragraph_count", "N": 3})
    rows: list[dict[str, Any]] = [
        {"ground_truth": truth},
        {"ground_truth": truth, "messages": ["Write."]},
        {"ground_truth": truth, "messages": [{"role": "user", "content": "Write."}]},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    (row,), provenance = prepare("rlvr_ifeval", file, tmp_path)
    assert row.id == "rlvr_ifeval-3"
    assert sum(provenance["left_out"].values()) == 2


@pytest.mark.parametrize(
    "truth",
    [
        None,
        "no json",
        "3",
        '{"func_name": "validate_choice"}',
        '{"func_name": ["validate_choice"]}',
    ],
)
def test_rlvr_rows_without_a_known_check_are_refused(truth: object) -> None:
    with pytest.raises(RowProblem):
        rlvr_constraints({"messages": [], "ground_truth": truth})


def test_rlvr_mapping_covers_the_published_checks() -> None:
    spec = json.loads(published_file("if/constraint_spec.json").read_text())
    checks = spec["rlvr_ifeval_functions"]
    assert set(checks) - set(FUNCTIONS) == {"validate_choice"}
    for name, (id_, renamed, implied) in FUNCTIONS.items():
        ours = {renamed.get(theirs, theirs) for theirs in checks[name]["kwargs"]} | set(implied)
        assert ours == set(REGISTRY[id_].arguments), name


# --- the table ------------------------------------------------------------------------------------


def domains(name: str) -> Any:
    chosen = OmegaConf.create({"domains": OmegaConf.load(ROOT / "configs/domains" / name)})
    config = read_config(Config, OmegaConf.to_container(chosen, resolve=True))
    return config.domains


NAMES = {"math": "simplerl", "chat": "wildchat_if", "instruction_following": "nemotron_if"}


def test_the_prepared_domains_read_what_was_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGSRL_DATA", str(tmp_path))
    sets = domains("prepared.yaml")
    assert {domain: Path(config.source.path).stem for domain, config in sets.items()} == NAMES
    chat = sets["chat"]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(300)))
    prepare("wildchat_if", file, tmp_path)
    train = load_rows(chat.source, "chat", key="k")
    heldout = load_rows(chat.heldout, "chat", key="k")
    assert (len(train), len(heldout)) == (50, 250)
    assert not {row.id for row in train} & {row.id for row in heldout}


# --- the command ----------------------------------------------------------------------------------


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "--list"]) == 0
    text = capsys.readouterr().out
    for name in TASKS.names():
        task = find_task(name, "k")
        if split := task.train or task.test:
            assert name in text
            assert split.hub in text
            assert task.licence in text


@pytest.mark.parametrize(
    ("name", "repo", "file", "row"),
    [
        ("gsm8k", "openai/gsm8k", "main/train.parquet", {"question": "1+1?", "answer": "#### 2"}),
        (
            "simplerl",
            "hkust-nlp/SimpleRL-Zoo-Data",
            "simplelr_qwen_level3to5/train.parquet",
            {"question": "1+1?", "prompt": "<|im_start|>", "reward_model": {"ground_truth": "2"}},
        ),
    ],
)
def test_the_hub_is_read_at_one_revision(
    name: str, repo: str, file: str, row: dict[str, Any], tmp_path: Path
) -> None:
    """The real client libraries against a local server, in a process of their own: they read
    their environment once."""
    path = tmp_path / "repo" / file
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row] * 3), path)
    config = {"config_name": "main", "data_files": [{"split": "train", "path": "main/train*"}]}
    card = f"---\n{json.dumps({'configs': [config]})}\n---\n" if name == "gsm8k" else ""
    (tmp_path / "repo" / "README.md").write_text(card)
    with fake_hub.serve(repo, tmp_path / "repo") as endpoint:
        environment = os.environ | {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "mgsrl.cli", "data", "prepare", name, "--output", "out"],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / f"out/{name}.jsonl").open()]
    assert rows[0] == {"id": f"{name}-1", "prompt": "1+1?", "answer": "2"}
    assert len(rows) == 3
    provenance = json.loads((tmp_path / f"out/{name}.provenance.json").read_text())
    split = find_task(name, "k").train
    assert split is not None
    assert provenance["revision"] == (split.revision or fake_hub.REVISION)
    assert provenance["split"] == "train"


def test_an_unreachable_hub_is_one_quick_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    assert main(["data", "prepare", "gsm8k", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "openai/gsm8k" in error
    assert "--from FILE" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["gsmk"], ["did you mean 'gsm8k'"]),
        (["wildbench", "--split", "train"], ["--split train", "no such rows", "other split"]),
        (["smollm2", "--split", "test"], ["--split", "a model"]),
        (["gsm8k", "--from", "missing.jsonl"], ["--from", "missing.jsonl"]),
        (["gsm8k", "--from", "other.jsonl"], ["no row can be used", "columns question, prompt"]),
    ],
)
def test_mistakes_end_with_2_and_no_file(
    options: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.jsonl").write_text('{"text": "x"}')
    assert main(["data", "prepare", *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)
    assert not Path("data").exists()
