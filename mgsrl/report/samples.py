"""Generations for the report: the first stored ones of the earliest and the latest step.

They are not selected for looks: per domain the first stored prompt and its first responses.
"""

import re
from typing import Any

from markupsafe import Markup, escape

from mgsrl.report.load import RunData, dump

SAMPLES_SHOWN = 2
CHARACTERS_SHOWN = 1500
TAG = re.compile(r"&lt;/?(?:think|response)&gt;")


def sample_sections(run: RunData) -> list[dict[str, Any]]:
    """Per domain: `{"domain", "groups": [{"when", "step", "prompt", "responses": [...]}]}`."""
    steps = sorted(run.samples)
    labels = {step: "late" if i else "early" for i, step in enumerate(steps)}
    sections = []
    for domain in run.domains:
        groups = [
            _group(labels[step], step, rows)
            for step in steps
            if (rows := _first_group(run.samples[step], domain))
        ]
        if groups:
            sections.append({"domain": domain, "groups": groups})
    return sections


def _first_group(rows: list[dict[str, Any]], domain: str) -> list[dict[str, Any]]:
    own = [row for row in rows if row.get("domain") == domain]
    return [row for row in own if row.get("prompt_id") == own[0].get("prompt_id")]


def _group(when: str, step: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    messages = rows[0].get("messages") or []
    return {
        "when": when,
        "step": step,
        "prompt": [(m.get("role", ""), cut(m.get("content", ""))) for m in messages],
        "num_samples": len(rows),
        "responses": [_response(row) for row in rows[:SAMPLES_SHOWN]],
    }


def _response(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "html": show_tags(cut(row.get("response") or "")),
        "reward": row.get("reward"),
        "advantage": row.get("advantage"),
        "tokens": row.get("num_tokens"),
        "truncated": row.get("finish_reason") == "length",
        "error": row.get("error"),
        "details": dump(row["details"]) if row.get("details") else "",
    }


def cut(text: str) -> str:
    """At most `CHARACTERS_SHOWN` characters, saying how many are left out."""
    rest = len(text) - CHARACTERS_SHOWN
    return text if rest <= 0 else f"{text[:CHARACTERS_SHOWN]} … ({rest} more characters)"


def show_tags(text: str) -> Markup:
    """Escaped text in which the think and response tags stand out."""
    # safe: the replacement only wraps what has been escaped already
    return Markup(TAG.sub(r'<span class="tag">\g<0></span>', str(escape(text))))
