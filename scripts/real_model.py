#!/usr/bin/env python
"""What the comparison on SmolLM2-135M came to (docs/real_model.md): rows and tables of its runs.

    mgsrl compare +experiment=smollm2 'strategies=[mixed,mgs]' 'seeds=[0]' compare.dir=runs/real
    python scripts/real_model.py            # prints the tables
    python scripts/real_model.py --docs     # writes them into the page, and rows beside it

Every finished run is a row of `docs/real_model.jsonl`, from which the tables are made, so that the
comparison can be made in pieces. A pair's cosine is a ratio of sums over steps and modules: in
every step the halves of each domain's prompts are independent, so noise adds nothing to the sums.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from cell_rows import Row, heldout, is_finished, joined, write_rows
from pages import write_between

from mgsrl import load_run
from mgsrl.compare.cells import read_plan
from mgsrl.report.compare_text import change, interval, table
from mgsrl.statistics.seeds import difference, estimate, holm

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "real_model.md", ROOT / "docs" / "real_model.jsonl"
MARKS = ("<!-- results -->\n", "<!-- end of results -->")
ARMS = ("mixed", "normalized_advantage", "global_surgery", "mgs")
DOMAINS = ("math", "chat", "instruction_following")
SURE = 0.05


def row_of(run_dir: Path, arm: str, seed: int) -> Row:
    """What a finished run came to."""
    run = load_run(run_dir)
    steps = run.config.train.num_steps
    shares, metrics = run.shares.groupby("domain"), run.metrics
    return {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "before": heldout(run_dir, 0),
        "after": heldout(run_dir, steps),
        "pairs": dict(pairs_of(run.surgery)),
        "reliability": {d: float(shares.get_group(d).reliability.mean()) for d in DOMAINS},
        "projected": {d: float(metrics[f"surgery/projected_share/{d}"].mean()) for d in DOMAINS},
        "live": {d: float(metrics[f"live_groups/{d}"].mean()) for d in DOMAINS},
        "minutes": float(metrics["time/total"].sum()) / 60,
    }


def pairs_of(surgery: pd.DataFrame) -> Iterator[tuple[str, dict[str, float]]]:
    """Of each pair of domains: the shares of (step, module) in which the product of the gradients
    is negative and in which it stands out of the noise, and the cosine without the noise."""
    own = surgery[surgery.domain_a == surgery.domain_b]
    signal = {d: float((own.inner * own.reliability)[own.domain_a == d].sum()) for d in DOMAINS}
    for a, b in itertools.combinations(DOMAINS, 2):
        of = surgery[surgery.domain_a.isin((a, b)) & surgery.domain_b.isin((a, b))]
        of = of[of.domain_a != of.domain_b]
        length = np.sqrt(max(0.0, signal[a]) * max(0.0, signal[b]))
        yield (
            f"{a} and {b}",
            {
                "negative": float((of.inner < 0).mean()),
                "stands_out": float(of.stands_out.astype(float).mean()),
                "cosine": float(of.inner.sum() / length) if length else float("nan"),
            },
        )


def known_rows(folder: Path) -> list[Row]:
    """Those of `RESULTS`, and those of the finished runs in `folder`."""
    cells = (read_plan(folder).get("cells") or {}) if folder.is_dir() else {}
    new = [
        row_of(folder / name, cell["arm"], cell["seed"])
        for name, cell in cells.items()
        if is_finished(folder / name)
    ]
    rows = joined(RESULTS, new, ("arm", "seed"))
    return sorted(rows, key=lambda row: (ARMS.index(row["arm"]), row["seed"]))


def tables(rows: Sequence[Row]) -> str:
    """The Markdown tables of the page."""
    return "\n\n".join([_gains(rows), _against(rows), _pairs(rows), _domains(rows)]) + "\n"


def _of(rows: Sequence[Row], arm: str) -> list[Row]:
    return [row for row in rows if row["arm"] == arm]


def _gain(row: Row, measure: str) -> float:
    gains = [row["after"][d] - row["before"][d] for d in DOMAINS]
    own = dict(zip(DOMAINS, gains, strict=True))
    return {**own, "mean": float(np.mean(gains)), "worst": min(gains)}[measure]


MEASURES = (*DOMAINS, "mean", "worst")


def _gains(rows: Sequence[Row]) -> str:
    lines = []
    for arm in ARMS:
        if own := _of(rows, arm):
            cells = [change(estimate([_gain(row, m) for row in own])) for m in MEASURES]
            lines.append([arm, str(len(own)), *cells])
    return "**Gain of the held-out reward**\n\n" + table(["strategy", "seeds", *MEASURES], lines)


def _against(rows: Sequence[Row]) -> str:
    """Differences to the first arm, paired by seed; p corrected in each measure."""
    others = [arm for arm in ARMS[1:] if _of(rows, arm)]
    ends = {(a, m): {r["seed"]: _gain(r, m) for r in _of(rows, a)} for a in ARMS for m in MEASURES}
    cells: dict[tuple[str, str], str] = {}
    for m in MEASURES:
        found = [difference(ends[arm, m], ends[ARMS[0], m]) for arm in others]
        for arm, each, p in zip(others, found, holm([each.p for each in found]), strict=True):
            text = change(each)
            cells[arm, m] = f"**{text}**" if p < SURE else text
    lines = [[arm, *(cells[arm, m] for m in MEASURES)] for arm in others]
    title = f"**Against `{ARMS[0]}`, paired by seed**"
    return f"{title} (bold: corrected p below {SURE})\n\n" + table(["strategy", *MEASURES], lines)


def _pairs(rows: Sequence[Row]) -> str:
    pairs = list(rows[0]["pairs"]) if rows else []
    lines = []
    for pair in pairs:
        columns = [[row["pairs"][pair][key] for row in rows] for key in ("negative", "stands_out")]
        shares = [f"{np.mean(column):.1%}" for column in columns]
        lines.append([pair, *shares, change(estimate([r["pairs"][pair]["cosine"] for r in rows]))])
    head = ["domains", "negative products", "conflicts that stand out", "cosine without the noise"]
    return f"**Conflicts, over {len(rows)} runs**\n\n" + table(head, lines)


def _domains(rows: Sequence[Row]) -> str:
    lines = [
        [d, *(interval(estimate([row[key][d] for row in rows])) for key in ("live", "reliability"))]
        for d in DOMAINS
    ]
    for line, d in zip(lines, DOMAINS, strict=True):
        for arm in ("global_surgery", "mgs"):
            line.append(interval(estimate([row["projected"][d] for row in _of(rows, arm)])))
    head = ["domain", "live groups", "reliability", "projected: global_surgery", "projected: mgs"]
    return "**Gradients**\n\n" + table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/real"), help="(%(default)s)")
    parser.add_argument("--docs", action="store_true", help="write rows and tables into the docs")
    options = parser.parse_args()
    rows = known_rows(options.folder)
    if not options.docs:
        print(tables(rows))
        return
    write_rows(RESULTS, rows)
    write_between(PAGE, MARKS, tables(rows))


if __name__ == "__main__":
    main()
