"""What surgery saw in every module: inner products, cosines and conflicts, as Parquet parts.

`surgery/step_000007.parquet` is one long table per step: a row for each module and each pair of
domains `domain_a <= domain_b` in the report's order. Rows with `domain_a == domain_b` hold the
squared gradient norm in `inner`, the domain's combination weight in `weight` and the share of that
norm that was projected away in `projected_share` (both null elsewhere). On steps that measure
reliability (`surgery/reliability.py` has the definitions) these rows have `reliability`, and the
rows of two domains `corrected_cosine`, `z` and `stands_out`; null on other steps or if unknown.

`surgery/kinds_000007.parquet` says the same per kind of module (attention, mlp, ...), over all
modules of the kind: `cosine` is of the gradients restricted to them, `conflict_rate` the share of
the kind's `num_modules` in which the pair conflicts (null where `domain_a == domain_b`), and
`projected_share` as above (null elsewhere). `effective_dimension` is the kind's, the same on all of
its rows. A step for which nothing was resolved has no such part.

`surgery/domains_000007.parquet` says what each domain has of the step: of the tokens trained on, of
the sum of the gradients' norms, and of its own gradient what is signal (null if not measured).

`surgery/probe_000007.parquet`, of steps that tried others (`surgery/step_probe.py`): a row for each
`trial` (`resolved`, `own` of the domain `of`, `idle`) and each domain `on` whose loss was measured:
its `change`, the one `predicted` to first order, and the `step_norm` in the weights.

One part per step, written and renamed, makes a resumed step replace its own part.
Left out: appending to one file, which Parquet cannot do atomically.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from mgsrl.errors import DataError, one_line
from mgsrl.files.jsonl import replacing
from mgsrl.types import Reliability, StepProbe, SurgeryReport

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
        ("projected_share", pa.float64()),
        ("reliability", pa.float64()),
        ("corrected_cosine", pa.float64()),
        ("z", pa.float64()),
        ("stands_out", pa.bool_()),
    ]
)
KINDS_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("kind", pa.string()),
        ("num_modules", pa.int32()),
        ("domain_a", pa.string()),
        ("domain_b", pa.string()),
        ("cosine", pa.float64()),
        ("conflict_rate", pa.float64()),
        ("projected_share", pa.float64()),
        ("effective_dimension", pa.float64()),
    ]
)
DOMAINS_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("domain", pa.string()),
        ("tokens", pa.int64()),
        ("token_share", pa.float64()),
        ("grad_norm", pa.float64()),
        ("norm_share", pa.float64()),
        ("reliability", pa.float64()),
    ]
)
PROBE_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("trial", pa.string()),
        ("of", pa.string()),
        ("on", pa.string()),
        ("change", pa.float64()),
        ("predicted", pa.float64()),
        ("step_norm", pa.float64()),
    ]
)
SCHEMAS = {
    "step": SCHEMA,
    "kinds": KINDS_SCHEMA,
    "domains": DOMAINS_SCHEMA,
    "probe": PROBE_SCHEMA,
}
"""By how the names of the parts begin."""


def write_surgery(
    run_dir: Path,
    step: int,
    report: SurgeryReport,
    tokens: Mapping[str, int] = MappingProxyType({}),
) -> Path:
    """Store the detail of one step, per module (the path returned), per kind of module, per domain,
    and what steps that were tried did. `tokens`: trained on, by domain, where that is known.

    `cosine` is null where a domain has no gradient in the module, or none that is finite;
    `conflict` is a negative inner product.
    """
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if report.kinds:
        _write(folder / f"kinds_{step:06d}.parquet", kinds_table(step, report))
        _write(folder / f"domains_{step:06d}.parquet", domains_table(step, report, tokens))
    if report.step_probe is not None:
        _write(folder / f"probe_{step:06d}.parquet", probe_table(step, report.step_probe))
    return _write(folder / f"step_{step:06d}.parquet", surgery_table(step, report))


def _write(path: Path, table: pa.Table) -> Path:
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return path


def surgery_table(step: int, report: SurgeryReport) -> pa.Table:
    """The long table of one report; M * D * (D + 1) / 2 rows."""
    gram, weights = report.gram_MDD.tolist(), report.weights_MD.tolist()
    projected = None if report.projected_MD is None else report.projected_MD.tolist()
    rows = []
    for m, module in enumerate(report.modules):
        for a, b in _pairs(report):
            known = projected is not None and a == b and gram[m][a][a] > 0
            rows.append(
                {
                    "step": step,
                    "module": module,
                    "domain_a": report.domains[a],
                    "domain_b": report.domains[b],
                    "inner": gram[m][a][b],
                    "cosine": _cosine(gram[m], a, b),
                    "conflict": gram[m][a][b] < 0,
                    "weight": weights[m][a] if a == b else None,
                    "projected_share": projected[m][a] if projected and known else None,
                    **_reliability(report.reliability, m, a, b),
                }
            )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _reliability(found: Reliability | None, m: int, a: int, b: int) -> dict[str, float | bool]:
    """The columns that are known for the pair."""
    if found is None:
        return {}
    if a == b:
        columns = {"reliability": found.reliability_MD[m, a].item()}
    else:
        columns = {
            "corrected_cosine": found.corrected_cosine_MDD[m, a, b].item(),
            "z": found.z_MDD[m, a, b].item(),
        }
    known = {name: value for name, value in columns.items() if not math.isnan(value)}
    return {**known, **({"stands_out": bool(found.conflict_MDD[m, a, b])} if "z" in known else {})}


def kinds_table(step: int, report: SurgeryReport) -> pa.Table:
    """The table of one report per kind of module; K * D * (D + 1) / 2 rows for K kinds."""
    rows = []
    for kind in dict.fromkeys(report.kinds):
        own = [m for m, other in enumerate(report.kinds) if other == kind]
        gram_mDD = report.gram_MDD[own]
        gram = gram_mDD.sum(0).tolist()
        conflicts = (gram_mDD < 0).double().mean(0).tolist()
        norms_mD = gram_mDD.diagonal(dim1=-2, dim2=-1)
        projected = report.projected_MD
        removed = None if projected is None else (projected[own] * norms_mD).sum(0).tolist()
        for a, b in _pairs(report):
            known = removed is not None and a == b and gram[a][a] > 0
            rows.append(
                {
                    "step": step,
                    "kind": kind,
                    "num_modules": len(own),
                    "domain_a": report.domains[a],
                    "domain_b": report.domains[b],
                    "cosine": _cosine(gram, a, b),
                    "conflict_rate": conflicts[a][b] if a != b else None,
                    "projected_share": removed[a] / gram[a][a] if removed and known else None,
                    "effective_dimension": _known(report.dimensions.get(kind, math.nan)),
                }
            )
    return pa.Table.from_pylist(rows, schema=KINDS_SCHEMA)


def domains_table(step: int, report: SurgeryReport, tokens: Mapping[str, int]) -> pa.Table:
    """The table of one report per domain; D rows."""
    norms_D = report.gram_MDD.sum(0).diagonal().clamp(min=0).sqrt()
    norms, total = norms_D.tolist(), norms_D.sum().item()
    all_tokens = sum(tokens.values())
    found = report.reliability
    rows = []
    for d, domain in enumerate(report.domains):
        own = tokens.get(domain)
        rows.append(
            {
                "step": step,
                "domain": domain,
                "tokens": own,
                "token_share": own / all_tokens if own is not None and all_tokens else None,
                "grad_norm": norms[d],
                "norm_share": norms[d] / total if total > 0 else None,
                "reliability": _known(found.total_reliability_D[d].item()) if found else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=DOMAINS_SCHEMA)


def probe_table(step: int, probe: StepProbe) -> pa.Table:
    """The table of one probe; D * (D + 2) rows."""
    trials = [("resolved", None), *(("own", domain) for domain in probe.domains), ("idle", None)]
    rows = [
        {
            "step": step,
            "trial": trial,
            "of": of,
            "on": on,
            "change": _known(probe.change_SD[s, e].item()),
            "predicted": _known(probe.predicted_SD[s, e].item()),
            "step_norm": _known(probe.norm_S[s].item()),
        }
        for s, (trial, of) in enumerate(trials)
        for e, on in enumerate(probe.domains)
    ]
    return pa.Table.from_pylist(rows, schema=PROBE_SCHEMA)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pairs(report: SurgeryReport) -> list[tuple[int, int]]:
    num_domains = len(report.domains)
    return [(a, b) for a in range(num_domains) for b in range(a, num_domains)]


def _cosine(gram: Sequence[Sequence[float]], a: int, b: int) -> float | None:
    norms = (gram[a][a] * gram[b][b]) ** 0.5
    # Not finite on a step that was skipped for it: it must not spoil the means over steps.
    return gram[a][b] / norms if 0 < norms < math.inf else None


def surgery_parts(run_dir: Path, table: str = "step") -> dict[int, Path]:
    """The steps with stored detail, ascending, and their parts; `table` of `SCHEMAS`, per module
    by default."""
    parts = sorted((run_dir / FOLDER).glob(f"{table}_*.parquet"))
    numbers = {part: part.stem.removeprefix(f"{table}_") for part in parts}
    return {int(number): part for part, number in numbers.items() if number.isdigit()}


def read_surgery(
    run_dir: Path, columns: Sequence[str] | None = None, table: str = "step"
) -> pa.Table:
    """All parts of a run of one of `SCHEMAS` as one table in step order; empty if there are none.

    Parts of an older version lack newer columns, which are null then.
    """
    return read_parts(list(surgery_parts(run_dir, table).values()), columns, table)


def read_parts(
    parts: Sequence[Path], columns: Sequence[str] | None = None, table: str = "step"
) -> pa.Table:
    """Some parts of one of `SCHEMAS` as one table, in their order; only `columns` if given.

    Raises:
        DataError: a part is damaged.
    """
    names = [str(part) for part in parts]
    import pyarrow.dataset as ds  # and pandas with it: a third of a second

    dataset = ds.dataset(names, schema=SCHEMAS[table], format="parquet")
    try:
        return dataset.to_table(columns=list(columns) if columns else None)
    except pa.ArrowInvalid as error:
        raise DataError(
            "A file of surgery/ is damaged.",
            expected="Parquet files, as the run wrote them",
            found=one_line(error),
            todo="restore the file, or remove it: its step is missing then",
        ) from error
