"""The report on a source counts everything and stops at nothing but an unreadable file."""

import json
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config import DataConfig, PolicyConfig, SourceConfig
from mgsrl.data.inspect import inspect_source
from mgsrl.data.templates import PromptTokenizer
from mgsrl.errors import ConfigError, DataError
from tests.rewards.loaded import needs_of


def source(path: Path, rows: list[dict[str, Any]]) -> SourceConfig:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return SourceConfig(kind="file", path=str(path))


def test_it_counts_problems_duplicates_and_lengths(tmp_path: Path, tokenizer: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "one", "answer": "1"},
        {"prompt": "one", "answer": "2"},
        {"prompt": "one " * 60, "answer": "3"},
        {"prompt": "no answer"},
        {"prompt": "none either"},
        {"prompt": "", "answer": "4"},
        {
            "prompt": [
                {"role": "user", "content": "a"},
                {"role": "system", "content": "the template wants this first"},
                {"role": "user", "content": "b"},
            ],
            "answer": "5",
        },
    ]
    prompts = PromptTokenizer(PolicyConfig(), tokenizer, DataConfig())
    report = inspect_source(
        source(tmp_path / "rows.jsonl", rows),
        "math",
        key="k",
        needs=needs_of("math"),
        prompts=prompts,
        max_prompt_tokens=30,
    )
    assert (report.num_rows, report.num_usable) == (7, 3)
    assert (report.duplicates, report.overlong) == ([("line 2", "line 1")], 1)
    assert [row for row, _, _ in report.problems] == ["line 4", "line 5", "line 6", "line 7"]
    assert sum(count for _, _, count in report.histogram()) == 3
    text = "\n".join(report.lines(shown=2))
    assert "3 of 7 rows usable" in text
    assert "problems: 4 rows" in text
    assert "2 x expected the answer of a math task" in text
    assert "line 4: the columns prompt" in text
    assert "and 2 more" in text
    assert "line 6" not in text


def test_lines_that_cannot_be_read_are_problems_among_others(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "caf\xe9"}\n{"prompt": "One  Two"}\n{"prompt": "one two"}\n{')
    source_ = SourceConfig(kind="file", path=str(path))
    report = inspect_source(source_, "chat", key="k", needs=needs_of("reward_model"))
    assert [row for row, _, _ in report.problems] == ["line 1", "line 4"]
    assert report.duplicates == [("line 3", "line 2")]


def test_an_unreadable_file_is_still_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"prompt": ')
    with pytest.raises(DataError, match="line 1"):
        inspect_source(
            SourceConfig(kind="file", path=str(path)), "math", key="k", needs=needs_of("math")
        )


def test_a_source_that_says_nothing_is_told_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"domains\.d\.source does not say where the rows are"):
        inspect_source(SourceConfig(), "d", key="domains.d.source", needs=needs_of("math"))


def test_pocket_sources_have_no_problems(tokenizer: Any) -> None:
    report = inspect_source(SourceConfig(size=50), "chat", key="k", needs=needs_of("reward_model"))
    assert (report.num_rows, report.num_usable, report.duplicates) == (50, 50, [])
    assert report.histogram() == []
