"""What a data source holds, for `mgsrl data inspect`: rows, lengths, duplicates, problems.

Unlike loading, it does not stop at the first bad row: it reads all of them and counts.

Left out: contamination checks against benchmarks.
"""

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mgsrl.config import SourceConfig
from mgsrl.data.rows import Row, RowProblem, RowReader
from mgsrl.data.sources import open_records, source_name, window
from mgsrl.data.templates import PromptTokenizer

_SHOWN = 5


@dataclass(slots=True)
class SourceReport:
    """One source, read to its end."""

    name: str
    num_rows: int = 0
    """Rows inside `start` and `limit`, usable or not."""
    num_usable: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    """What was expected and not found -> how many rows."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first row of each problem, with its place and what was found."""
    duplicate_prompts: int = 0
    """Usable rows whose conversation an earlier row already has."""
    overlong: int = 0
    """Usable rows with more than `data.max_prompt_tokens` tokens."""
    lengths: list[int] = field(default_factory=list)
    """Prompt tokens of every usable row, template included (empty without a tokenizer)."""
    first: Row | None = None

    def histogram(self, bins: int = 8) -> list[tuple[int, int, int]]:
        """(from, to, rows) of equally wide ranges of prompt tokens, both ends included."""
        if not self.lengths:
            return []
        low, high = min(self.lengths), max(self.lengths)
        width = max(-(-(high - low + 1) // bins), 1)
        counts = Counter((length - low) // width for length in self.lengths)
        last = (high - low) // width
        return [(low + i * width, low + (i + 1) * width - 1, counts[i]) for i in range(last + 1)]

    def lines(self) -> list[str]:
        """The report as text."""
        text = [f"{self.name}: {self.num_usable} of {self.num_rows} rows usable"]
        text.append(f"  duplicate prompts: {self.duplicate_prompts}")
        if self.lengths:
            middle = int(statistics.median(self.lengths))
            text.append(
                f"  prompt tokens: median {middle}, longest {max(self.lengths)}, "
                f"{self.overlong} over the limit"
            )
            most = max(count for _, _, count in self.histogram())
            for low, high, count in self.histogram():
                bar = "#" * round(40 * count / most)
                text.append(f"    {low:>6}-{high:<6} {count:>7} {bar}")
        for expected, count in self.problems.most_common(_SHOWN):
            text.append(f"  problem in {count} rows: expected {expected}")
            text.append(f"    first: {self.examples[expected]}")
        if len(self.problems) > _SHOWN:
            text.append(f"  and {len(self.problems) - _SHOWN} other kinds of problems")
        if self.first is not None:
            text.append(
                f"  first row {self.first.id}: {self.first.messages[-1]['content'][:200]!r}"
            )
            text.append(f"    reference: {dict(self.first.reference)}")
        return text


def inspect_source(
    source: SourceConfig,
    domain: str,
    *,
    key: str,
    reward_kind: str,
    validate: Callable[[dict[str, Any]], None] | None = None,
    prompts: PromptTokenizer | None = None,
    max_prompt_tokens: int = 0,
) -> SourceReport:
    """Read a whole source and report on it; arguments as of `sources.load_rows`.

    Args:
        prompts: counts prompt tokens when given.
        max_prompt_tokens: the limit that `overlong` counts against; 0 for none.

    Raises:
        MissingPathError, DataError: the file itself cannot be read.
    """
    reader = RowReader(source, key=key, reward_kind=reward_kind, validate=validate)
    report = SourceReport(source_name(source, domain))
    ids: set[str] = set()
    seen: set[str] = set()
    for index, (where, record) in window(open_records(source, domain, key=key), source):
        report.num_rows += 1
        try:
            row = reader.read(record, default_id=str(index))
            if row.id in ids:
                raise RowProblem("every id once", repr(row.id))
            tokens = prompts.encode(row.messages) if prompts else None
        except RowProblem as problem:
            report.problems[problem.expected] += 1
            report.examples.setdefault(problem.expected, f"{where}: {problem.found}")
            continue
        ids.add(row.id)
        conversation = repr(row.messages)
        report.duplicate_prompts += conversation in seen
        seen.add(conversation)
        report.num_usable += 1
        report.first = report.first or row
        if tokens is not None:
            report.lengths.append(len(tokens))
            report.overlong += 0 < max_prompt_tokens < len(tokens)
    return report
