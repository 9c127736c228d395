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
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from cell_rows import SURE, Row, against, heldout, is_finished, joined, write_rows
from pages import write_between

from mgsrl import load_run
from mgsrl.compare.cells import read_plan
from mgsrl.report.compare_text import change, interval, runs_text, table
from mgsrl.report.render import MISSING
from mgsrl.statistics.seeds import estimate

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "real_model.md", ROOT / "docs" / "real_model.jsonl"
MARKS = ("<!-- results -->\n", "<!-- end of results -->")
WHOLE = "global_surgery"
"""Takes the model as one module."""
ARMS = ("mixed", "normalized_advantage", WHOLE, "mgs")
DOMAINS = ("math", "chat", "instruction_following")
PAIRS = tuple(itertools.combinations(DOMAINS, 2))
UNSEEN = 0.5
"""A standard error above which a figure says nothing."""


def row_of(run_dir: Path, arm: str, seed: int) -> Row:
    """What a finished run came to."""
    run = load_run(run_dir)
    steps = run.config.train.num_steps
    metrics = run.metrics
    return {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "before": heldout(run_dir, 0),
        "after": heldout(run_dir, steps),
        "pairs": pairs_of(run.surgery),
        "signal": signal_of(run.surgery),
        "projected": {d: float(metrics[f"surgery/projected_share/{d}"].mean()) for d in DOMAINS},
        "live": {d: float(metrics[f"live_groups/{d}"].mean()) for d in DOMAINS},
        "minutes": float(metrics["time/total"].sum()) / 60,
    }


def signal_of(surgery: pd.DataFrame) -> dict[str, list[float]]:
    """Of each domain, summed up over steps and modules: the squared norm of its gradient, and what
    of that is no noise; below 0 by chance where there is little."""
    own = surgery[(surgery.domain_a == surgery.domain_b) & surgery.reliability.notna()]
    parts = own.assign(signal=own.inner * own.reliability).groupby("domain_a")
    sums = parts[["inner", "signal"]].sum()
    return {d: [float(sums[key][d]) for key in ("inner", "signal")] for d in DOMAINS}


def pairs_of(surgery: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Of each pair of domains: the sum of the products of their gradients, and the shares of (step,
    module) in which the product is negative and in which that stands out of the noise. Of steps
    whose noise was measured, as `signal_of`."""
    surgery, found = surgery[surgery.stands_out.notna()], {}
    for a, b in PAIRS:
        of = surgery[surgery.domain_a.isin((a, b)) & surgery.domain_b.isin((a, b))]
        of = of[of.domain_a != of.domain_b]
        found[f"{a} and {b}"] = {
            "inner": float(of.inner.sum()),
            "negative": float((of.inner < 0).mean()),
            "stands_out": float(of.stands_out.astype(float).mean()),
        }
    return found


def known_rows(folder: Path) -> list[Row]:
    """Those of `RESULTS`, and those of the finished runs in `folder`."""
    cells = (read_plan(folder).get("cells") or {}) if folder.is_dir() else {}
    finished = {name: cell for name, cell in cells.items() if is_finished(folder / name)}
    new = [row_of(folder / name, cell["arm"], cell["seed"]) for name, cell in finished.items()]
    if lost := [f"{r['arm']} seed {r['seed']}" for r in new if not (r["before"] and r["after"])]:
        raise SystemExit(
            f"{', '.join(lost)}: held-out rewards before or after training are missing. Remove the "
            f"run's folder from {folder} and run it again, or take {folder}/cells.json's cell out."
        )
    rows = joined(RESULTS, new, ("arm", "seed"))
    for seed in {row["seed"] for row in rows}:
        began = {tuple(row["before"].values()) for row in rows if row["seed"] == seed}
        if len(began) > 1:
            raise SystemExit(
                f"The runs of seed {seed} did not begin with the same weights: held-out rewards "
                f"before training are {sorted(began)}. The start differs between machines: make a "
                "seed's runs on one, or remove its other rows from docs/real_model.jsonl."
            )
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
    cells = against(ends, others, ARMS[0], MEASURES, change)
    lines = [[arm, *(cells[arm, m] for m in MEASURES)] for arm in others]
    title = f"**Against `{ARMS[0]}`, paired by seed**"
    return f"{title} (bold: corrected p below {SURE})\n\n" + table(["strategy", *MEASURES], lines)


def cosine(rows: Sequence[Row], a: str, b: str) -> float:
    """The cosine of two domains' gradients without the noise, of the sums over `rows`; NaN where
    one of them shows no signal."""
    lengths = [sum(row["signal"][d][1] for row in rows) for d in (a, b)]
    if min(lengths) <= 0:
        return math.nan
    return float(
        sum(row["pairs"][f"{a} and {b}"]["inner"] for row in rows) / np.sqrt(np.prod(lengths))
    )


def reliability(rows: Sequence[Row], domain: str) -> float:
    """The share of the squared norm that is no noise, of the sums over `rows`."""
    norm, signal = np.sum([row["signal"][domain] for row in rows], axis=0)
    return float(signal / norm)


def jackknife(rows: Sequence[Row], figure: Callable[[Sequence[Row]], float]) -> str:
    """A figure of all rows, plus or minus its standard error: a seed is left out at a time, since
    the runs of one seed share prompts and start."""
    seeds = sorted({row["seed"] for row in rows})
    without = np.array([figure([r for r in rows if r["seed"] != seed]) for seed in seeds])
    error = without.std() * np.sqrt(len(seeds) - 1) if len(seeds) > 1 else math.nan
    whole = figure(rows)
    known = math.isfinite(whole) and math.isfinite(error) and error < UNSEEN
    return f"{whole:+.2f} ± {error:.2f}" if known else MISSING


def _pairs(rows: Sequence[Row]) -> str:
    """Shares are of modules: the arm that takes the model as one module is not among them."""
    lines = []
    for a, b in PAIRS:
        of = [row["pairs"][f"{a} and {b}"] for row in rows if row["arm"] != WHOLE]
        shares = [np.mean([pair[key] for pair in of]) for key in ("negative", "stands_out")]
        whole = jackknife(rows, partial(cosine, a=a, b=b))
        lines.append([f"{a} and {b}", *(f"{share:.1%}" for share in shares), whole])
    head = ["domains", "negative products", "conflicts that stand out", "cosine without the noise"]
    return f"**Conflicts, of {runs_text(len(rows))}**\n\n" + table(head, lines)


def _domains(rows: Sequence[Row]) -> str:
    lines = []
    for d in DOMAINS:
        live = f"{np.mean([row['live'][d] for row in rows]):.0%}"
        projected = [
            interval(estimate([row["projected"][d] for row in _of(rows, arm)]))
            for arm in (WHOLE, "mgs")
        ]
        lines.append([d, live, jackknife(rows, partial(reliability, domain=d)), *projected])
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
