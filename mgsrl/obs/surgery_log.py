"""What surgery saw in every module: inner products, cosines and conflicts, as Parquet parts.

`surgery/step_000007.parquet` is one long table per step: a row for each module and each pair of
domains `domain_a <= domain_b` in the report's order. Rows with `domain_a == domain_b` hold the
squared gradient norm in `inner` and the domain's combination weight in `weight` (null elsewhere).
One part per step, written and renamed, makes a resumed step replace its own part.
Left out: appending to one file, which Parquet cannot do atomically.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mgsrl.types import SurgeryReport

FOLDER = "surgery"

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("module", pa.string()),
        ("domain_a", pa.string()),
        ("domain_b", pa.string()),
        ("inner", pa.float64()),
        ("cosine", pa.float64()),
        ("conflict", pa.bool_()),
        ("weight", pa.float64()),
    ]
)


def write_surgery(run_dir: Path, step: int, report: SurgeryReport) -> Path:
    """Store the per-module detail of one step.

    `cosine` is null where a domain has no gradient in the module; `conflict` is a negative inner
    product.
    """
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:06d}.parquet"
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(surgery_table(step, report), temporary, compression="zstd")
    temporary.replace(path)
    return path


def surgery_table(step: int, report: SurgeryReport) -> pa.Table:
    """The long table of one report; M * D * (D + 1) / 2 rows."""
    gram, weights = report.gram_MDD.tolist(), report.weights_MD.tolist()
    rows = []
    for m, module in enumerate(report.modules):
        for a, domain_a in enumerate(report.domains):
            for b in range(a, len(report.domains)):
                inner = gram[m][a][b]
                norms = (gram[m][a][a] * gram[m][b][b]) ** 0.5
                rows.append(
                    {
                        "step": step,
                        "module": module,
                        "domain_a": domain_a,
                        "domain_b": report.domains[b],
                        "inner": inner,
                        "cosine": inner / norms if norms > 0 else None,
                        "conflict": inner < 0,
                        "weight": weights[m][a] if a == b else None,
                    }
                )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def read_surgery(run_dir: Path) -> pa.Table:
    """All parts of a run as one table in step order; an empty table if there are none."""
    parts = sorted((run_dir / FOLDER).glob("step_*.parquet"))
    if not parts:
        return SCHEMA.empty_table()
    return pa.concat_tables([pq.read_table(part, schema=SCHEMA) for part in parts])
