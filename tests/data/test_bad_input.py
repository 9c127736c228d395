"""Bad input: one message with file and row and exit code 2, or left out and counted when asked.

The same table goes through training sources and through `mgsrl score`.
"""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mgsrl.cli import main
from mgsrl.config import RewardConfig, SourceConfig
from mgsrl.data.sources import Rows, load_rows
from mgsrl.errors import DataError
from mgsrl.files.lines import MAX_LINE_BYTES
from mgsrl.rewards.factory import row_needs
from mgsrl.scoring.score_file import ScoreSummary, default_reward, score_file


def math_row(**changes: Any) -> bytes:
    row = {"id": 1, "prompt": "1 + 1?", "response": "\\boxed{2}", "answer": "2"}
    return json.dumps(row | changes).encode()


def constraint_row(name: str, **kwargs: Any) -> bytes:
    row = {"prompt": "Write.", "response": "Hello.", "instruction_id_list": [name]}
    return json.dumps(row | {"kwargs": [kwargs]}).encode()


MATH = [math_row(id=5), math_row(id=6)]
CONSTRAINTS = [constraint_row("punctuation:no_comma")] * 2

# The third line of a JSON lines file, and what the message says besides file and line.
LINES: dict[str, tuple[list[bytes], bytes, str]] = {
    "no reference": (MATH, b'{"prompt": "q", "response": "r"}', "answer"),
    "null reference": (MATH, math_row(answer=None), "answer"),
    "empty reference": (MATH, math_row(answer=" "), "answer"),
    "list as answer": (MATH, math_row(answer=[2]), "answer"),
    "NaN answer": (MATH, math_row(answer=float("nan")), "finite"),
    "infinite answer": (MATH, math_row(answer=float("-inf")), "finite"),
    "prompt of the wrong type": (MATH, math_row(prompt=3), "prompt"),
    "message of the wrong type": (MATH, math_row(prompt=[3]), "role"),
    "id of the wrong type": (MATH, math_row(id=[1]), "id"),
    "id twice": (MATH, math_row(id=5), "id"),
    "unknown constraint": (CONSTRAINTS, constraint_row("punctuation:no_coma"), "no_comma"),
    "wrong argument": (
        CONSTRAINTS,
        constraint_row("length_constraints:number_words", num_words="many", relation="at least"),
        "num_words",
    ),
    "no arguments": (
        CONSTRAINTS,
        b'{"prompt": "q", "response": "r", "instruction_id_list": '
        b'["length_constraints:number_words"]}',
        "",
    ),
    "Latin-1": (MATH, math_row().replace(b"1 + 1?", b"caf\xe9?"), "UTF-8"),
    "not JSON": (MATH, b"{prompt: q}", "one JSON object"),
    "cut short": (MATH, math_row()[:-9], "one JSON object"),
    "a list": (MATH, b"[1, 2]", "one JSON object"),
    "nested too deeply": (MATH, b"[" * 100_000, "one JSON object"),
    "deep value": (MATH, b'{"answer": ' + b"[" * 900 + b"]" * 900 + b"}", ""),
    "endless number": (MATH, b'{"answer": ' + b"9" * 5000 + b"}", "one JSON object"),
    "half a surrogate pair": (MATH, math_row(prompt="\ud83d").lower(), "Unicode"),
    "too long": (MATH, b'{"prompt": "' + b"x" * MAX_LINE_BYTES, "at most 16 MiB"),
}


def load(path: Path, good: list[bytes], bad_rows: str = "error") -> Rows:
    kind = "math" if good is MATH else "constraints"
    source = SourceConfig(kind="file", path=str(path), bad_rows=bad_rows)
    return load_rows(source, "d", key="k", needs=row_needs(RewardConfig(kind=kind)))


def score(path: Path, good: list[bytes], bad_rows: str = "error") -> ScoreSummary:
    kind = "math" if good is MATH else "constraints"
    output = path.with_name("out.jsonl")
    reward = default_reward(kind, {"missing_tag": "whole_response"})
    return score_file(reward, path, output, bad_rows=bad_rows, force=True)


@pytest.mark.parametrize("read", [load, score], ids=["train", "score"])
@pytest.mark.parametrize("case", LINES)
def test_a_bad_line_is_named(tmp_path: Path, case: str, read: Callable[..., Any]) -> None:
    good, bad, message = LINES[case]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*good, bad, b""]))
    with pytest.raises(DataError) as caught:
        read(path, good)
    text = str(caught.value)
    assert f"{path}, line 3" in text
    assert message in text
    assert all(part in text for part in ("expected:", "found:", "to do:"))
    assert len(text) < 4000
    assert not path.with_name("out.jsonl").exists()


@pytest.mark.parametrize("case", LINES)
def test_bad_lines_of_training_data_are_left_out_when_asked(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad, _ = LINES[case]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*good, bad, good[0].replace(b'"id": 5', b'"id": 7')]))
    rows = load(path, good, "skip")
    assert (len(rows), rows.num_skipped) == (3, 1)
    (record,) = caplog.records
    assert "left out 1 of 4 rows" in record.getMessage()
    assert "line 3" in record.getMessage()


@pytest.mark.parametrize("case", [name for name in LINES if LINES[name][0] is CONSTRAINTS])
def test_score_leaves_bad_lines_out_when_asked(tmp_path: Path, case: str) -> None:
    good, bad, _ = LINES[case]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*good, bad, *good]))
    summary = score(path, good, "skip")
    assert (summary.rows, summary.skipped) == (4, 1)
    assert "line 3" in summary.problems[0]
    ids = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").open()]
    assert ids == [1, 2, 4, 5]


def test_score_leaves_all_kinds_of_lines_out_and_names_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [line for good, line, _ in LINES.values() if good is MATH]
    path, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(b"\n".join([*MATH, *bad, math_row(id=7)]))
    main(["score", "math", str(path), str(output), "--whole-response", "--bad-rows", "skip"])
    assert [json.loads(line)["id"] for line in output.open()] == [5, 6, 7]
    printed = capsys.readouterr()
    assert f"{len(bad)} bad rows left out" in printed.out.replace("\n", " ")
    assert f"{path}, line 3" in printed.err
    path.write_bytes(bad[0])
    with pytest.raises(DataError, match=r"(?s)no rows to score.*1 bad rows"):
        score(path, MATH, "skip")


WHOLE = b"\n".join(MATH)
FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": (".jsonl", b"", "no rows"),
    "blank": (".jsonl", b"\n \n", "no rows"),
    "UTF-16": (".jsonl", WHOLE.decode().encode("utf-16"), "UTF-16 text"),
    "Parquet by another name": (".jsonl", b"PAR1....", "a Parquet file"),
    "gzip": (".jsonl", b"\x1f\x8b\x08\x00", "a gzip file"),
}
TABLES: dict[str, tuple[str, bytes, str]] = {
    "empty array": (".json", b"[]", "no rows"),
    "empty json": (".json", b"", "an empty file"),
    "deep json": (".json", b"[" * 100_000, "one JSON array"),
    "Latin-1 json": (".json", b'[\n{"prompt": "caf\xe9"}]', "line 2"),
    "UTF-16 json": (".json", "[]".encode("utf-16"), "UTF-16 text"),
    "empty csv": (".csv", b"", "no rows"),
    "header only": (".csv", b"prompt,answer\n", "no rows"),
    "Latin-1 csv": (".csv", b"prompt,answer\na,1\ncaf\xe9,2\n", "line 3"),
    "open quote": (".csv", b'prompt,answer\n"a,1\nb,2\n', "unexpected end of data"),
    "empty parquet": (".parquet", b"", "an empty file"),
}


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
@pytest.mark.parametrize("read", [load, score], ids=["train", "score"])
@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_named(
    tmp_path: Path, case: str, read: Callable[..., Any], bad_rows: str
) -> None:
    suffix, content, message = FILES[case]
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path, MATH, bad_rows)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("case", TABLES)
def test_a_bad_table_is_named(tmp_path: Path, case: str) -> None:
    suffix, content, message = TABLES[case]
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(path, MATH)
    assert str(path) in str(caught.value)


def test_a_parquet_file_cut_anywhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"prompt": f"q{n}", "answer": str(n)} for n in range(500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    whole = path.read_bytes()
    for share in (0.01, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match="cut short"):
            load(path, MATH, "skip")


def test_numbers_and_text_may_not_be_the_same_id(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([math_row(id=1), math_row(id="a"), math_row(id="1")]))
    with pytest.raises(DataError, match=r"(?s)line 3.*'1' also in line 1"):
        load(path, MATH)


def test_a_byte_order_mark_of_utf8_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + WHOLE)
    assert len(load(path, MATH)) == 2
    assert score(path, MATH).rows == 2


def test_a_giant_line_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(MATH[0] + b'\n{"prompt": "')
        file.seek(200 * 2**20)  # a hole: it takes no room on the disk
        file.write(b"\n" + MATH[1])
    tracemalloc.start()
    rows = load(path, MATH, "skip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(rows), rows.num_skipped) == (2, 1)
    assert peak < 4 * MAX_LINE_BYTES
    with pytest.raises(DataError, match=r"line 2: .*"):
        score(path, MATH)


def test_the_command_line_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{")
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(main(["score", "math", str(path), str(tmp_path / "out.jsonl")]))
    assert caught.value.code == 2
    assert f"{path}, line 1" in capsys.readouterr().err
