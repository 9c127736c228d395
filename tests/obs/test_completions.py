import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from mgsrl.obs.completions import (
    COLUMNS,
    WIDEST,
    as_markdown,
    console_table,
    sampled_completions,
    visible,
)
from tests.obs.records import group


def row(**changes):
    values = (3, "math", "What is 1 + 1?", "It is 2.", 1.0, 0.5, 4, "stop")
    return {**dict(zip(COLUMNS, values, strict=True)), **changes}


def printed(rows, width=80):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(console_table(rows, width))
    return file.getvalue()


def test_one_response_to_each_of_the_first_prompts_of_every_domain():
    groups = {d: [group(d, i, values=(0.5, None)) for i in range(3)] for d in ("math", "chat")}
    rows = sampled_completions(7, groups, per_domain=2)
    assert [(r["step"], r["domain"], r["reward"]) for r in rows] == [
        (7, "math", 0.5),
        (7, "math", 0.5),
        (7, "chat", 0.5),
        (7, "chat", 0.5),
    ]
    assert all(tuple(r) == COLUMNS for r in rows)
    first = groups["math"][0]
    assert rows[0]["prompt"] == first.prompt.messages[0]["content"]
    assert rows[0]["response"] == first.rollouts[0].text


def test_the_console_shows_the_ends_in_a_line_each():
    long = row(prompt="p" * 500 + "?", response="r" * 500 + "42", reward=None)
    head, one, two = printed([row(), long]).splitlines()
    assert head.split() == ["step", "3", "...", "prompt", "...", "response", "reward"]
    assert one.split() == ["math", *["What", "is", "1", "+", "1?"], *["It", "is", "2."], "1.000"]
    domain, prompt, response, reward = two.split()
    assert (prompt[:2], prompt[-2:], response[:2], response[-3:]) == ("…p", "p?", "…r", "r42")
    assert reward == "–"
    assert len(two) <= 80


def test_neither_markup_nor_control_characters_reach_the_terminal():
    response = "[bold red]\x1b[2J\x07\r\nleft\u202eright[/]"
    text = printed([row(response=response, prompt="[/x]")], 120)
    assert "[bold red]\\x1b[2J\\x07\\r\\nleft\\u202eright[/]" in text
    assert "[/x]" in text
    assert len(text.splitlines()) == 2


@given(st.text(), st.integers(40, 300))
def test_every_text_has_one_printable_line_inside_the_width(text, width):
    assert visible(text).isprintable()
    lines = printed([row(prompt=text, response=text)], width).splitlines()
    assert len(lines) == 2
    assert cell_len(lines[1]) <= max(width, WIDEST)


@pytest.mark.parametrize("width", [40, 80, 100_000])
def test_a_wide_log_is_not_filled(width):
    text = printed([row(prompt="p" * 9999, response="中" * 9999)], width)
    assert max(map(cell_len, text.splitlines())) <= WIDEST


def test_markdown_holds_texts_as_code():
    text = as_markdown([row(response="# head\n\n```\n|a|b|", reward=None)])
    assert "**reward –**, advantage 0.500, 4 tokens, stop\n" in text
    for line in ("    # head", "    ```", "    |a|b|"):
        assert line in text.splitlines()
