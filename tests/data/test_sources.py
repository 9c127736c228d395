"""Rows of every kind of source, and one clear message for every kind of bad input."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mgsrl.config import SourceConfig
from mgsrl.data.sources import Rows, load_rows, split_hub_path
from mgsrl.errors import ConfigError, DataError, MissingPathError
from tests.oracle import published_file, published_rows
from tests.rewards.loaded import needs_of

MATH = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(5)]
CONSTRAINTS = [
    {
        "prompt": "Write about cats.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"num_words": 20, "relation": "at least"}],
    }
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """`rows` in the format that the suffix of `path` says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def load(path: Path, kind: str = "math", **options: Any) -> Rows:
    needs = options.pop("needs", needs_of(kind))
    source = SourceConfig(kind="file", path=str(path), **options)
    return load_rows(source, "dom", key="domains.dom.source", needs=needs)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = load(write(tmp_path / f"math{suffix}", MATH))
    assert [row.reference for row in rows] == [{"answer": str(n + 1)} for n in range(5)]
    assert rows[2].messages == ({"role": "user", "content": "What is 2 + 1?"},)
    assert [row.id for row in rows] == [f"math-{n}" for n in range(1, 6)]


def test_start_and_limit_cut_a_window_and_keep_the_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "math.jsonl", MATH)
    assert [row.id for row in load(path, start=1, limit=2)] == ["math-2", "math-3"]
    assert [row.id for row in load(path, start=3)] == ["math-4", "math-5"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_kwargs_lose_their_nones_and_may_be_json(tmp_path: Path, suffix: str) -> None:
    rows = CONSTRAINTS
    if suffix == ".csv":
        rows = [{k: v if k == "prompt" else json.dumps(v) for k, v in CONSTRAINTS[0].items()}]
    (row,) = load(write(tmp_path / f"if{suffix}", rows), kind="constraints")
    assert row.reference == {
        "instruction_id_list": CONSTRAINTS[0]["instruction_id_list"],
        "kwargs": CONSTRAINTS[0]["kwargs"],
    }


def test_a_constraint_without_arguments_may_be_null(tmp_path: Path) -> None:
    record = {"prompt": "x", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [None]}
    (row,) = load(write(tmp_path / "if.jsonl", [record]), kind="constraints")
    assert row.reference["kwargs"] == [{}]


def test_mapping_reaches_into_nested_records(tmp_path: Path) -> None:
    record = {"a": {"b": [{"role": "user", "content": "hi"}]}, "gold": {"x": 3}, "n": 7}
    columns = {"messages": "a.b", "answer": "gold.x", "id": "n"}
    (row,) = load(write(tmp_path / "rows.jsonl", [record]), columns=columns)
    assert (row.id, row.reference["answer"]) == ("7", "3")


def test_answer_pattern_takes_its_first_group(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "answer": "48/2 = 24\n#### 1,024 "}]
    (row,) = load(write(tmp_path / "rows.jsonl", rows), answer_pattern="#### (.+)")
    assert row.reference["answer"] == "1,024"


def test_verl_rows_need_no_mapping(tmp_path: Path) -> None:
    base = {"data_source": "x", "prompt": [{"role": "user", "content": "q"}], "ability": "y"}
    truth = json.dumps([{"instruction_id": ["punctuation:no_comma"], "kwargs": [None]}])
    math = base | {"reward_model": {"ground_truth": "5", "style": "rule"}}
    follow = base | {"reward_model": {"ground_truth": truth, "style": "rule"}}
    (row,) = load(write(tmp_path / "m.parquet", [math]))
    assert row.reference == {"answer": "5"}
    del math["data_source"]  # dumps of rollouts often leave it out
    (row,) = load(write(tmp_path / "d.parquet", [math]))
    assert row.reference == {"answer": "5"}
    (row,) = load(write(tmp_path / "f.parquet", [follow]), kind="constraints")
    assert row.reference == {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


TRL: dict[str, tuple[dict[str, Any], str]] = {
    "answer": ({"answer": 5}, "5"),
    "ground_truth": ({"ground_truth": "5"}, "5"),
    "solution": ({"solution": "5"}, "5"),
    "worked solution": (
        {"solution": r"First \boxed{3}, so it is \boxed{\frac{3}{7}}, as asked."},
        r"\frac{3}{7}",
    ),
}


@pytest.mark.parametrize("case", TRL)
def test_trl_rows_need_no_mapping(tmp_path: Path, case: str) -> None:
    columns, answer = TRL[case]
    record = {"prompt": [{"role": "user", "content": "q"}], **columns}
    (row,) = load(write(tmp_path / "rows.jsonl", [record]))
    assert row.reference == {"answer": answer}


def test_a_worked_solution_without_a_marked_answer_is_no_reference(tmp_path: Path) -> None:
    words = "We add one and one, and then we see that it must be the number 2"
    path = write(tmp_path / "rows.jsonl", [{"prompt": "q", "solution": words}])
    with pytest.raises(DataError, match="boxed"):
        load(path)
    (row,) = load(path, answer_pattern=r"number (\d)")
    assert row.reference == {"answer": "2"}


def test_a_verl_answer_may_be_a_list_of_one(tmp_path: Path) -> None:
    record: dict[str, Any] = {
        "data_source": "x",
        "prompt": "q",
        "reward_model": {"ground_truth": ["5"]},
    }
    (row,) = load(write(tmp_path / "rows.jsonl", [record]))
    assert row.reference == {"answer": "5"}
    record["reward_model"] = {"ground_truth": ["5", "6"]}
    path = write(tmp_path / "rows.jsonl", [record])
    with pytest.raises(DataError, match="a string or a number"):
        load(path)


@pytest.mark.parametrize(
    ("domain", "kind", "names"),
    [
        ("math", "math", {"answer"}),
        ("chat", "reward_model", set()),
        ("instruction_following", "constraints", {"instruction_id_list", "kwargs", "gates"}),
    ],
)
def test_pocket_rows_hold_what_their_reward_needs(domain: str, kind: str, names: set[str]) -> None:
    train = load_rows(SourceConfig(size=40), domain, key="k", needs=needs_of(kind))
    held = load_rows(SourceConfig(size=40, split="heldout"), domain, key="k", needs=needs_of(kind))
    assert len(train) == len(held) == 40
    assert all(set(row.reference) == names for row in train)
    asked = {row.messages[-1]["content"] for row in train}
    assert not asked & {row.messages[-1]["content"] for row in held}


def test_a_hub_source_goes_through_the_datasets_library(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    write(folder / "train.jsonl", MATH)
    source = SourceConfig(kind="hub", path=str(folder), split="train", start=1, limit=3)
    rows = load_rows(source, "math", key="k", needs=needs_of("math"))
    assert [row.reference["answer"] for row in rows] == ["2", "3", "4"]
    source.split = "nope"
    with pytest.raises(MissingPathError, match="nope"):
        load_rows(source, "math", key="k", needs=needs_of("math"))


def test_hub_paths() -> None:
    assert split_hub_path("openai/gsm8k:main") == ("openai/gsm8k", "main", None)
    assert split_hub_path("a/b/c/d.parquet") == ("a/b", None, "c/d.parquet")
    assert split_hub_path("a/b") == ("a/b", None, None)


BAD_FILES = {
    "cut short": (".jsonl", b'{"prompt": "a", "answer": "1"}\n{"prompt": "b", "ans', "line 2"),
    "an array": (".jsonl", b'[{"prompt": "a", "answer": "1"}, \n', "suffix .json"),
    "not objects": (".jsonl", b"3\n", "line 1"),
    "gzip": (".jsonl", b"\x1f\x8b\x08\x00\xff\xfe", "a gzip file"),
    "lines as array": (".json", b'{"prompt": "a"}\n{"prompt": "b"}\n', "suffix .jsonl"),
    "one object": (".json", b'{"prompt": "a"}', "single JSON dict"),
    "lfs pointer": (".parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "text": (".parquet", b"hello there, I am not a table", "starts with b'hello"),
    "empty parquet": (".parquet", b"", "an empty file"),
    "empty": (".jsonl", b"", "no rows"),
    "empty array": (".json", b"[]", "no rows"),
    "ragged": (".csv", b"prompt,answer\na,1\nb\n", "line 3"),
    "ragged long": (".csv", b"prompt,answer\na,1,2\n", "line 2"),
    "suffix": (".txt", b"x", ".jsonl, .json, .parquet, .csv"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_not_what_it_says(tmp_path: Path, case: str) -> None:
    suffix, content, message = BAD_FILES[case]
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    text = str(caught.value)
    assert message in text
    assert str(path) in text
    assert all(part in text for part in ("expected:", "found:", "to do:"))


def test_a_truncated_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", MATH * 100)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cut short"):
        load(path)


def test_a_parquet_damaged_in_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", MATH * 100)
    content = bytearray(path.read_bytes())
    content[4:120] = b"\xff" * 116
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.parquet"):
        load(path)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_train.jsonl", MATH)
    with pytest.raises(MissingPathError, match=r"did you mean 'gsm8k_train\.jsonl'"):
        load(tmp_path / "gsm8k_trian.jsonl")
    with pytest.raises(MissingPathError, match="a folder"):
        load(tmp_path)
    with pytest.raises(MissingPathError, match="not even the folder"):
        load(tmp_path / "a" / "b.jsonl")


BAD_ROWS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no prompt": ("math", {"question": "q", "answer": "1"}, "columns.prompt=NAME"),
    "empty prompt": ("math", {"prompt": " ", "answer": "1"}, "text in the user's message"),
    "prompt type": ("math", {"prompt": 3, "answer": "1"}, "int 3"),
    "role": ("math", {"prompt": [{"role": "bot", "content": "x"}], "answer": "1"}, "'bot'"),
    "last turn": (
        "math",
        {"prompt": [{"role": "assistant", "content": "x"}], "answer": "1"},
        "ends with the user's turn",
    ),
    "no answer": ("math", {"prompt": "q"}, "columns.answer=NAME"),
    "null answer": ("math", {"prompt": "q", "answer": None}, "the answer of a math task"),
    "empty answer": ("math", {"prompt": "q", "answer": ""}, "not empty"),
    "answer type": ("math", {"prompt": "q", "answer": [1]}, "list [1]"),
    "bool answer": ("math", {"prompt": "q", "answer": True}, "bool True"),
    "no ids": ("constraints", {"prompt": "q", "kwargs": []}, "instruction_id_list"),
    "ids type": (
        "constraints",
        {"prompt": "q", "instruction_id_list": [3], "kwargs": [{}]},
        "list of strings",
    ),
    "lengths": (
        "constraints",
        {"prompt": "q", "instruction_id_list": ["a", "b"], "kwargs": [{}]},
        "list of 2 objects",
    ),
    "kwargs type": (
        "constraints",
        {"prompt": "q", "instruction_id_list": ["a"], "kwargs": [3]},
        "int 3",
    ),
    "kwargs json": (
        "constraints",
        {"prompt": "q", "instruction_id_list": ["a"], "kwargs": "[{"},
        "a value that is JSON",
    ),
    "gates": (
        "constraints",
        {"prompt": "q", "instruction_id_list": ["a"], "kwargs": [{}], "gates": [3]},
        "`gates`",
    ),
    "id": ("math", {"prompt": "q", "answer": "1", "id": 1.5}, "float 1.5"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named(tmp_path: Path, case: str) -> None:
    kind, record, message = BAD_ROWS[case]
    good = MATH[0] if kind == "math" else CONSTRAINTS[0]
    path = write(tmp_path / "rows.jsonl", [good, record])
    with pytest.raises(DataError) as caught:
        load(path, kind=kind)
    assert message in str(caught.value)
    assert f"{path}, line 2" in str(caught.value)


def test_ids_that_occur_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row | {"id": 5} for row in MATH[:2]])
    with pytest.raises(DataError, match="'5' also in line 1"):
        load(path)
    assert [row.id for row in load(path, columns={"id": ""})] == ["rows-1", "rows-2"]


def test_a_pattern_that_does_not_match_names_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", MATH)
    with pytest.raises(DataError, match="line 1"):
        load(path, answer_pattern="#### (.+)")


@pytest.mark.parametrize("pattern", ["#### .+", "(("])
def test_a_pattern_that_cannot_work(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match="answer_pattern"):
        load(write(tmp_path / "rows.jsonl", MATH), answer_pattern=pattern)


def test_a_mapping_that_cannot_work(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", MATH)
    with pytest.raises(ConfigError, match="did you mean 'answer'"):
        load(path, columns={"anser": "x"})
    with pytest.raises(DataError, match=r"right one: domains\.dom\.source\.columns\.answer=NAME"):
        load(path, columns={"answer": "x.y"})


def test_the_reward_room_may_refuse_a_reference(tmp_path: Path) -> None:
    def validate(reference: Mapping[str, Any]) -> None:
        raise ValueError(f"unknown constraint {reference['instruction_id_list'][0]}")

    path = write(tmp_path / "rows.jsonl", CONSTRAINTS)
    with pytest.raises(DataError, match=r"line 1.*\n.*\n.*unknown constraint punctuation"):
        load(path, needs=replace(needs_of("constraints"), validate=validate))


def test_bad_rows_may_be_left_out_with_a_warning(tmp_path: Path, caplog: Any) -> None:
    path = write(tmp_path / "rows.jsonl", [MATH[0], {"prompt": "q"}, MATH[1], {"prompt": "r"}])
    assert [row.id for row in load(path, bad_rows="skip")] == ["rows-1", "rows-3"]
    (record,) = caplog.records
    assert "left out 2 of 4 rows" in record.getMessage()
    assert "line 2" in record.getMessage()
    with pytest.raises(DataError, match="none, and 1 that cannot be used"):
        load(path, bad_rows="skip", start=1, limit=1)


def test_public_files() -> None:
    gsm8k = load(
        published_file("math/gsm8k_train.jsonl"),
        columns={"prompt": "question"},
        answer_pattern="#### (.+)",
    )
    assert len(gsm8k) == len(published_rows("math/gsm8k_train.jsonl"))
    assert gsm8k[0].reference == {"answer": "72"}
    chat = load(published_file("chat/wildchat_if_train.parquet"), kind="reward_model")
    assert len(chat) == len(published_rows("chat/wildchat_if_train.parquet"))
    synthetic = load(published_file("if/synthetic_if_train.jsonl"), kind="constraints")
    assert len(synthetic) == len(published_rows("if/synthetic_if_train.jsonl"))
    ifbench = load(published_file("if/ifbench_test.jsonl"), kind="constraints")
    arguments = [v for row in ifbench for k in row.reference["kwargs"] for v in k.values()]
    assert arguments
    assert None not in arguments
    nemotron = load(published_file("if/nemogym_if_example.jsonl"), kind="constraints")
    assert nemotron[0].id == str(published_rows("if/nemogym_if_example.jsonl")[0]["id"])


def test_public_files_in_the_layout_of_verl() -> None:
    name = "math/dsr_sub_train.parquet"
    answers = [row["reward_model"]["ground_truth"] for row in published_rows(name)]
    (bad,) = [number for number, answer in enumerate(answers) if not answer]
    before = load(published_file(name), limit=bad)
    assert [row.reference for row in before] == [{"answer": answer} for answer in answers[:bad]]
    with pytest.raises(DataError, match=rf"row {bad + 1}\b.*\n.*not empty"):
        load(published_file(name))
    usable = load(published_file(name), bad_rows="skip")
    assert (len(usable), usable.num_skipped) == (len(answers) - 1, 1)
    one_task = "math/pi1_r128_train.parquet"  # many times
    assert len(load(published_file(one_task))) == len(published_rows(one_task))
