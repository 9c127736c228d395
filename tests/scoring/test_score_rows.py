"""What people have: files of every kind, others' layouts, mapped columns, truthful messages."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mgsrl.errors import ConfigError, DataError
from mgsrl.rewards.factory import row_needs
from mgsrl.scoring.score_file import default_reward
from mgsrl.scoring.score_rows import Layout, ScoreRow, read_rows

BOX = "<response>\\boxed{5}</response>"
MATH = {"prompt": "2 + 3?", "response": BOX, "answer": "5"}
IDS, KWARGS = ["punctuation:no_comma", "keywords:existence"], [{}, {"keywords": ["sea"]}]
VERL = {
    "data_source": "gsm8k",
    "prompt": [{"role": "user", "content": "2 + 3?"}],
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "response": BOX,
}


def read(path: Path, domain: str = "math", **layout: Any) -> list[ScoreRow]:
    config = default_reward(domain)
    return list(read_rows(path, row_needs(config), layout=Layout(**layout)))


def one(folder: Path, row: dict[str, Any], domain: str = "math", **layout: Any) -> ScoreRow:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (read_row,) = read(path, domain, **layout)
    return read_row


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    match path.name.partition(".")[2]:
        case "jsonl":
            path.write_text(lines)
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "json":
            path.write_text(json.dumps(rows))
        case "json.gz":
            path.write_bytes(gzip.compress(json.dumps(rows).encode()))
        case "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case "csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        case "csv.gz":
            plain = write(path.with_name("plain.csv"), rows)
            path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


@pytest.mark.parametrize(
    "end", ["jsonl", "jsonl.gz", "json", "json.gz", "parquet", "csv", "csv.gz"]
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, end: str) -> None:
    rows = [{**MATH, "prompt": f"two\nlines {n}", "answer": str(n)} for n in range(3)]
    found = read(write(tmp_path / f"rows.{end}", rows))
    assert [row.id for row in found] == [1, 2, 3]
    assert [row.item.reference for row in found] == [{"answer": str(n)} for n in range(3)]
    assert found[0].item.response == BOX
    assert found[0].item.messages == ({"role": "user", "content": "two\nlines 0"},)


def test_constraints_in_every_layout(tmp_path: Path) -> None:
    """Nested, as JSON strings, in a table's union of arguments, inside verl's reference."""
    bare = {"prompt": "Write.", "response": "The sea."}
    truth = {"instruction_id_list": IDS, "kwargs": KWARGS}
    verl = {**VERL, "response": "x", "reward_model": {"ground_truth": json.dumps([truth])}}
    rows = [
        {**bare, **truth},
        {**bare, "instruction_id_list": json.dumps(IDS), "kwargs": json.dumps(KWARGS)},
        {**bare, "instruction_id_list": IDS, "kwargs": [json.dumps(each) for each in KWARGS]},
        {**bare, "instruction_id_list": IDS, "kwargs": [None, {**KWARGS[1], "n": None}]},
        verl,
    ]
    for row in rows:
        found = one(tmp_path, row, "instruction_following").item.reference
        assert found == {"instruction_id_list": IDS, "kwargs": KWARGS}
    table = write(tmp_path / "rows.parquet", [{**bare, **truth}])
    (row_,) = read(table, "instruction_following")
    assert row_.item.reference == {"instruction_id_list": IDS, "kwargs": KWARGS}


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        (VERL, {}),
        ({**VERL, "reward_model": {"ground_truth": ["5"]}}, {}),
        ({"response": BOX, "ground_truth": "5"}, {}),
        ({"response": BOX, "ground_truth": 5}, {}),
        ({"response": BOX, "solution": "So it is \\boxed{5}."}, {}),
        ({"out": BOX, "gold": "5"}, {"columns": {"response": "out", "answer": "gold"}}),
        (
            {"run": {"text": BOX}, "task": {"gold": 5}},
            {"columns": {"response": "run.text", "answer": "task.gold"}},
        ),
        ({"response": BOX, "answer": "A: five. Answer=5"}, {"answer_pattern": r"=(\d+)"}),
        # GSM8K's own answers, raw.
        ({"response": BOX, "answer": "2 + 3 = <<2+3=5>>5 apples.\n#### 5"}, {}),
        ({"response": BOX, "answer": "2 + 3 is 5 #### 5 \n"}, {}),
        ({"response": BOX, "ground_truth": "Five.\n####5"}, {}),
    ],
)
def test_answers_are_found(tmp_path: Path, row: dict[str, Any], layout: dict[str, Any]) -> None:
    found = one(tmp_path, row, **layout)
    assert found.item.reference == {"answer": "5"}
    assert found.item.response == BOX


@pytest.mark.parametrize("answer", ["#### ", "a #### b\nthe rest is 7", "#5", "x"])
def test_other_answers_stay_as_they_are(tmp_path: Path, answer: str) -> None:
    row = one(tmp_path, {"response": BOX, "answer": answer})
    assert row.item.reference == {"answer": answer.strip()}


SAID = {"role": "assistant", "content": BOX}
ASKED = {"role": "user", "content": "2 + 3?"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 3?", "response": [SAID]},
        {"prompt": [ASKED], "response": [ASKED, SAID]},
        {"messages": [ASKED, SAID]},
        {"prompt": [ASKED, SAID]},
        {"messages": [ASKED, SAID], "response": None},
    ],
)
def test_responses_as_messages(tmp_path: Path, row: dict[str, Any]) -> None:
    for domain, reference in (("chat", {}), ("math", {"answer": "5"})):
        found = one(tmp_path, {**row, **reference}, domain)
        assert found.item.response == BOX
        assert found.item.messages == (ASKED,)
        assert found.item.reference == reference


BAD = {
    "no response": ({"answer": "5"}, "--columns response=NAME"),
    "no answer": ({"response": BOX, "gold": "5"}, "--columns answer=NAME"),
    "several responses": ({"response": [BOX, BOX], "answer": "5"}, "one row per response"),
    "the user's": ({"response": [ASKED], "answer": "5"}, "end with the assistant's"),
    "no messages": ({"response": [], "answer": "5"}, "end with the assistant's"),
    "no text": ({"response": [{**SAID, "content": None}], "answer": "5"}, "text in the assistant"),
    "a number": ({"response": 5, "answer": "5"}, "`response`, a string or messages"),
    "null": ({"response": None, "answer": "5"}, "`response`, a string or messages"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(tmp_path: Path, name: str) -> None:
    row, message = BAD[name]
    with pytest.raises(DataError) as caught:
        one(tmp_path, row)
    assert "rows.jsonl, line 1" in str(caught.value)
    assert message in str(caught.value)


def test_the_hints_can_be_followed(tmp_path: Path) -> None:
    """What a message says to add makes the same row readable."""
    row = {"out": BOX, "gold": "5"}
    columns: dict[str, str] = {}
    for ours, theirs in (("response", "out"), ("answer", "gold")):
        with pytest.raises(DataError, match=f"--columns {ours}=NAME"):
            one(tmp_path, row, columns=columns)
        columns[ours] = theirs
    assert one(tmp_path, row, columns=columns).item.reference == {"answer": "5"}
    twice = write(tmp_path / "twice.jsonl", [{**MATH, "id": 1}, {**MATH, "id": 1}])
    with pytest.raises(DataError, match="--columns id="):
        read(twice)
    assert [each.id for each in read(twice, columns={"id": ""})] == [1, 2]
    with pytest.raises(ConfigError, match="did you mean 'response'"):
        one(tmp_path, row, columns={"respons": "out"})
    with pytest.raises(DataError, match=r"name the right one: --columns response=NAME"):
        one(tmp_path, row, columns={"response": "output"})


def test_chat_wants_a_prompt(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--columns prompt=NAME"):
        one(tmp_path, {"response": BOX}, "chat")
    assert one(tmp_path, {"response": BOX, "answer": "5"}).item.messages == ()


FILES: dict[str, tuple[bytes, str, str]] = {
    "Parquet called jsonl": (b"PAR1....", "rows.jsonl", "rename it to end in .parquet"),
    "gzip called jsonl": (gzip.compress(b"{}"), "rows.jsonl", "end in .gz"),
    "gzip called parquet": (gzip.compress(b"{}"), "rows.parquet", "end in .gz"),
    "zip": (b"PK\x03\x04..", "rows.jsonl", "unpack it"),
    "text called gz": (b'{"a": 1}\n', "rows.jsonl.gz", "take .gz off its name"),
    "cut gzip": (gzip.compress(b"x" * 1000)[:-9], "rows.json.gz", "fetch or pack the file again"),
    "packed Parquet": (gzip.compress(b"PAR1"), "rows.parquet.gz", "unpack it"),
    "packed Parquet called jsonl": (gzip.compress(b"PAR1"), "r.jsonl.gz", "end in .parquet"),
    "unknown": (b"hello", "rows.txt", "one of .jsonl, .json, .parquet, .csv"),
    "cut Parquet": (b"PAR1", "rows.parquet", "fetch or write the file again"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_something_else(tmp_path: Path, name: str) -> None:
    content, file, message = FILES[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)


def test_a_packed_file_that_ends_early_keeps_its_line(tmp_path: Path) -> None:
    rows = [{**MATH, "prompt": str(n) * 50 + "?"} for n in range(2000)]
    path = write(tmp_path / "rows.jsonl.gz", rows)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"after line \d+: cannot be unpacked"):
        read(path)
