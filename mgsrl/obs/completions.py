"""A few sampled responses of a step as a table: rows for trackers, Markdown, and the console's.

`rollouts/` holds whole groups (`rollout_log`); here is what one wants to glance at while a run goes
on. Left out: responses to held-out prompts, and a table that grows over the steps (wandb uploads a
table whole every time; each step's is its own).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from mgsrl.obs.rollout_log import rollout_rows
from mgsrl.types import RolloutGroup

COLUMNS = (
    *("step", "domain", "prompt", "response"),
    *("reward", "advantage", "num_tokens", "finish_reason"),
)
WIDEST = 160
"""Characters of a console line, where the console's own width is no bound."""
NARROWEST = 40
"""Of prompt and response together."""
PROMPT_SHARE = 0.35


def sampled_completions(
    step: int, groups: Mapping[str, Sequence[RolloutGroup]], per_domain: int
) -> list[dict[str, Any]]:
    """One response to each of the first `per_domain` prompts of every domain, as `COLUMNS`.

    Prompts are shuffled and the responses to one are alike in law: the first are a fair sample.
    `reward` is None for one that abstained.
    """
    rows = (row for row in rollout_rows(step, groups, per_domain) if row["sample"] == 0)
    shown = ({**row, "prompt": _prompt_text(row["messages"])} for row in rows)
    return [{name: row[name] for name in COLUMNS} for row in shown]


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Facts in a line, prompt and response as code blocks: they hold Markdown of their own."""
    return "\n\n".join(
        f"**reward {_number(row['reward'])}**, advantage {_number(row['advantage'])}, "
        f"{row['num_tokens']} tokens, {row['finish_reason']}\n\n"
        f"prompt\n\n{_indented(row['prompt'])}\n\nresponse\n\n{_indented(row['response'])}"
        for row in rows
    )


def console_table(rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    """A line per response: domain, the ends of prompt and response, reward.

    The ends, because that is where the question and the answer stand.
    """
    step = f"step {rows[0]['step']}" if rows else ""
    names = [step, *(row["domain"] for row in rows)]
    rewards = ["reward", *(_number(row["reward"]) for row in rows)]
    fixed = max(map(cell_len, names)) + max(map(len, rewards)) + 3 * 2  # columns stand 2 apart
    room = max(min(width, WIDEST) - fixed, NARROWEST)
    prompt = round(PROMPT_SHARE * room)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in (step, "... prompt", "... response"):
        table.add_column(head, no_wrap=True)
    table.add_column("reward", justify="right", style="cyan")
    for row, reward in zip(rows, rewards[1:]):
        ends = (_end(row["prompt"], prompt), _end(row["response"], room - prompt))
        # Text: no markup is read from it
        table.add_row(row["domain"], *map(Text, ends), reward)
    return table


def visible(text: str) -> str:
    """On one line, with what is no printable character as an escape (`\\n`, `\\x1b`, `\\u202e`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _end(text: str, cells: int) -> str:
    shown = visible(text[-cells:])
    if len(text) <= cells and cell_len(shown) <= cells:
        return shown
    while cell_len(shown) >= cells:
        shown = shown[1:]
    return f"…{shown}"


def _prompt_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The one message of the user, or all with their roles."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    "
