"""What a data source holds, for `mgsrl data inspect`: rows, lengths, duplicates, problems.

Unlike loading, it does not stop at the first bad row: it reads all of them and counts. What the
rows share with evaluation prompts is found in `contamination.py`.
"""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from mgsrl.config import SourceConfig
from mgsrl.data.contamination import (
    Contact,
    EvaluationIndex,
    Overlap,
    conversation_text,
    normalised,
)
from mgsrl.data.rows import Row, RowProblem
from mgsrl.data.sources import Reading
from mgsrl.data.templates import PromptTokenizer
from mgsrl.files.records import row_number
from mgsrl.types import RowNeeds

BAR = 40
"""Characters of the longest bar of the histogram."""


@dataclass(slots=True)
class SourceReport:
    """One source, read to its end."""

    name: str
    num_rows: int = 0
    """Rows inside `start` and `limit`, usable or not."""
    num_usable: int = 0
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    """(row, what was expected, what was found) of every row that is not usable."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """(row, the earlier row with the same conversation) but for case and white space."""
    overlong: int = 0
    """Usable rows with more than `limit` tokens."""
    limit: int = 0
    """`data.max_prompt_tokens`; 0 for none."""
    policy: str = ""
    """`data.overlong`: what a run does with them."""
    lengths: list[int] = field(default_factory=list)
    """Prompt tokens of every usable row, template included (empty without a tokenizer)."""
    contacts: list[Contact] | None = None
    """Rows that share text with evaluation prompts; None when none were given."""
    boilerplate: int = 0
    """Phrases in common with evaluation prompts that too many rows hold to mean anything."""
    examples: list[tuple[str, Row]] = field(default_factory=list)
    """The first usable rows, each with its place."""

    def histogram(self, bins: int = 8) -> list[tuple[int, int, int]]:
        """(from, to, rows) of equally wide ranges of prompt tokens, both ends included."""
        if not self.lengths:
            return []
        low, high = min(self.lengths), max(self.lengths)
        width = max(-(-(high - low + 1) // bins), 1)
        counts = Counter((length - low) // width for length in self.lengths)
        last = (high - low) // width
        return [(low + i * width, low + (i + 1) * width - 1, counts[i]) for i in range(last + 1)]

    def lines(self, shown: int = 5) -> list[str]:
        """The report as text; `shown` limits every list of rows, the totals are always there."""
        return [
            f"{self.name}: {self.num_usable} of {self.num_rows} rows usable",
            *self._problem_lines(shown),
            f"  duplicate prompts: {len(self.duplicates)}",
            *_some((f"{row} = {first}" for row, first in self.duplicates), shown),
            *self._length_lines(),
            *self._contamination_lines(shown),
            *self._example_lines(),
        ]

    def _problem_lines(self, shown: int) -> Iterator[str]:
        if not self.problems:
            return
        yield f"  problems: {len(self.problems)} rows"
        kinds = Counter(expected for _, expected, _ in self.problems)
        yield from _some((f"{n} x expected {text}" for text, n in kinds.most_common()), shown)
        yield "    by row:"
        yield from _some((f"  {row}: {found}" for row, _, found in self.problems), shown)

    def _length_lines(self) -> Iterator[str]:
        if not self.lengths:
            return
        ordered = sorted(self.lengths)
        middle, late = int(statistics.median(ordered)), ordered[int(0.95 * (len(ordered) - 1))]
        over = f", {self.overlong} over {self.limit} ({self.policy})" if self.limit else ""
        yield f"  prompt tokens: median {middle}, 95% up to {late}, longest {ordered[-1]}{over}"
        bars = self.histogram()
        most = max(count for _, _, count in bars)
        for low, high, count in bars:
            yield f"    {low:>6}-{high:<6} {count:>7} {'#' * round(BAR * count / most)}".rstrip()

    def _contamination_lines(self, shown: int) -> Iterator[str]:
        if self.contacts is None:
            return
        passed = f" ({self.boilerplate} frequent phrases passed over)" if self.boilerplate else ""
        yield f"  in common with evaluation prompts: {len(self.contacts)} rows{passed}"
        places = (f"{c.row} ~ {c.evaluation_row}: {c.text[:80]!r}" for c in self.contacts)
        yield from _some(places, shown)

    def _example_lines(self) -> Iterator[str]:
        for where, row in self.examples:
            named = "" if row.id == str(row_number(where)) else f" (id {row.id})"
            yield f"  {where}{named}: {row.messages[-1]['content'][:200]!r}"
            yield f"    reference: {dict(row.reference)}"


def inspect_source(
    source: SourceConfig,
    domain: str,
    *,
    key: str,
    needs: RowNeeds | None = None,
    prompts: PromptTokenizer | None = None,
    max_prompt_tokens: int = 0,
    overlong: str = "",
    against: EvaluationIndex | None = None,
    num_examples: int = 1,
) -> SourceReport:
    """Read a whole source and report on it; arguments as of `sources.load_rows`.

    Args:
        prompts: counts prompt tokens when given.
        max_prompt_tokens: the limit that `overlong` counts against; 0 for none.
        overlong: what a run does with longer prompts, for the text.
        against: evaluation prompts that no training row should hold.

    Raises:
        MissingPathError, DataError: the file itself cannot be read.
    """
    reading = Reading(source, domain, key=key, needs=needs, prefix="")
    report = SourceReport(reading.name, limit=max_prompt_tokens, policy=overlong)
    overlap = None if against is None else Overlap(against)
    seen: dict[str, str] = {}
    tokens: list[int] = []

    def accept(row: Row) -> None:
        tokens[:] = prompts.encode(row.messages) if prompts else []

    for where, row in reading.checked(accept):
        report.num_rows += 1
        if isinstance(row, RowProblem):
            report.problems.append((where, row.expected, row.found))
            continue
        report.num_usable += 1
        text = conversation_text(row.messages).removesuffix(reading.source.prompt_suffix)
        first = seen.setdefault(normalised(text), where)
        if first != where:
            report.duplicates.append((where, first))
        if overlap is not None:
            overlap.add(where, text)
        if len(report.examples) < num_examples:
            report.examples.append((where, row))
        if prompts:
            report.lengths.append(len(tokens))
            report.overlong += 0 < max_prompt_tokens < len(tokens)
    if overlap is not None:
        report.contacts, report.boilerplate = overlap.contacts(), overlap.num_boilerplate()
    return report


def _some(items: Iterator[str], shown: int) -> Iterator[str]:
    """The first `shown` items, indented, and how many more there are."""
    rest = 0
    for number, item in enumerate(items):
        if number < shown:
            yield f"    {item}"
        else:
            rest += 1
    if rest:
        yield f"    and {rest} more"
