"""A comparison as Markdown: the same tables as on its page, for a repository or a message."""

from collections.abc import Iterable, Sequence

from mgsrl.report.comparison import ArmSummary, Comparison
from mgsrl.report.evaluation_matrix import Cell
from mgsrl.report.render import MISSING, number, percent, plus_minus, signed
from mgsrl.report.tables import seconds_text
from mgsrl.report.verdicts import AVERAGE, WORST, Contrast
from mgsrl.statistics.seeds import Estimate


def markdown(c: Comparison) -> str:
    """The whole text."""
    title = f"# {runs_text(len(c.runs))} compared"
    parts = [title, _mark(c), sentences(c), _scores(c), _against(c)]
    parts += [_over_time(c), _forgetting(c), _conflicts(c), _cost(c), _runs(c)]
    return "\n\n".join(filter(None, parts)) + "\n"


def runs_text(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def interval(e: Estimate, digits: int = 3) -> str:
    """`0.512 (0.480 to 0.544)`; without an interval the mean alone."""
    mean = number(e.mean, digits)
    if e.n < 2:
        return mean
    return f"{mean} ({number(e.low, digits)} to {number(e.high, digits)})"


def change(e: Estimate, digits: int = 3) -> str:
    """As `interval`, with signs."""
    mean = signed(e.mean, digits)
    return mean if e.n < 2 else f"{mean} ({signed(e.low, digits)} to {signed(e.high, digits)})"


def p_text(contrast: Contrast | None) -> str:
    """The corrected p."""
    if contrast is None or contrast.corrected_p != contrast.corrected_p:
        return MISSING
    return f"{contrast.corrected_p:.3f}" if contrast.corrected_p >= 0.001 else "< 0.001"


def worst_text(each: ArmSummary) -> str:
    """The domain that gained least; of several, in how many seeds each did."""
    found = each.worst_domains
    return next(iter(found)) if len(found) == 1 else ", ".join(f"{d} {n}" for d, n in found.items())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Each row on a line of its own, whatever the texts."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def _mark(c: Comparison) -> str:
    notes = [
        f"**Not on equal terms, by request:** `{each.key}` is "
        + ", ".join(f"{value} ({who})" for value, who in each.groups.items())
        for each in c.allowed
    ]
    return "\n".join(f"> {' '.join(note.split())}" for note in [*notes, *c.remarks])


def marked(c: Comparison, each: ArmSummary) -> str:
    """The name of an arm, with a mark where it is not on equal terms with the others."""
    return f"{each.name} †" if c.allowed else each.name


def sentences(c: Comparison) -> str:
    """What can be said of each arm, as a list."""
    keys = ", ".join(each.key for each in c.allowed)
    first = [f"- Not on equal terms, by request: the runs differ in {keys}."] if keys else []
    return "\n".join([*first, *(f"- {each.sentence}" for each in c.arms)])


def _scores(c: Comparison) -> str:
    head = ["arm", "seeds", *c.domains, "average", "worst gain"]
    rows = [
        [
            marked(c, each),
            str(each.average.n),
            *(interval(each.after[d]) for d in c.domains),
            interval(each.average),
            ", ".join(filter(None, [change(each.worst), worst_text(each)])),
        ]
        for each in c.arms
    ]
    step = "" if c.common.last is None else f" after step {c.common.last}"
    about = (
        "Mean over seeds (95 % interval). Worst gain: of the domain that gained least in each run, "
        "and which that was (where it was not the same one, in how many seeds)."
    )
    return f"## Held-out reward{step}\n\n{table(head, rows)}\n\n{about}"


def _against(c: Comparison) -> str:
    keys = [AVERAGE, *(f"domain/{d}" for d in c.domains), WORST]
    rows = []
    for each in c.arms:
        if each.contrasts:
            cells = [_contrast(each, key) for key in keys]
            rows.append([marked(c, each), str(each.contrasts[AVERAGE].difference.n), *cells])
    if not rows:
        return ""
    head = ["arm", "pairs", "average", *c.domains, "worst gain"]
    about = (
        "Arm minus baseline, paired by seed: mean (95 % interval), p of the paired t test after "
        "Holm's correction (the average over arms; all else over arms and columns)."
    )
    return f"## Against {c.baseline}\n\n{table(head, rows)}\n\n{about}"


def _contrast(each: ArmSummary, key: str) -> str:
    contrast = each.contrasts[key]
    text = change(contrast.difference)
    return text if contrast.difference.n < 2 else f"{text}, p {p_text(contrast)}"


def _over_time(c: Comparison) -> str:
    """Domain x time, a table per arm."""
    tables = []
    for name, matrix in c.matrices.items():
        rows = [[domain, *map(_cell, cells)] for domain, cells in matrix.rows.items()]
        if matrix.trained:
            labels = [matrix.trained.get(step, MISSING) for step in matrix.steps]
            rows.insert(0, ["trained before", *labels])
        tables.append(table([name, *map(str, matrix.steps)], rows))
    if not tables:
        return ""
    left = max(matrix.left_out for matrix in c.matrices.values())
    more = f" {left} evaluations between these are in comparison.json." if left else ""
    about = (
        "Columns are steps; means over seeds with their standard errors over seeds. Bold: the "
        f"domain's best.{more}"
    )
    return "\n\n".join(["## Held-out reward over time", *tables, about])


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return MISSING
    text = f"{number(cell.result.mean)} {plus_minus(cell.result.standard_error)}".strip()
    return f"**{text}**" if cell.best else text


def _forgetting(c: Comparison) -> str:
    rows = [[e.name, *(interval(e.forgotten[d]) for d in c.domains)] for e in c.arms]
    about = "Best minus last held-out reward. The best of many evaluations is partly luck."
    return f"## Forgetting\n\n{table(['arm', *c.domains], rows)}\n\n{about}"


def _conflicts(c: Comparison) -> str:
    head = ["arm", "conflict rate", "out of the noise"]
    head += [f"reliability, {d}" for d in c.domains] + [f"projected away, {d}" for d in c.domains]
    rows = [
        [
            each.name,
            percent(each.conflict_rate.mean),
            percent(each.reliable_conflict_rate.mean),
            *(number(each.reliability[d].mean, 2) for d in c.domains),
            *(percent(each.projected[d].mean) for d in c.domains),
        ]
        for each in c.arms
    ]
    about = (
        "Conflict rate: (module, pair of domains) with a negative inner product; out of the noise: "
        "those that exceed their noise. Reliability: of a gradient's squared norm, what is signal; "
        "projected away: what surgery took. Means over steps and seeds."
    )
    return f"## Conflicts\n\n{table(head, rows)}\n\n{about}"


def _cost(c: Comparison) -> str:
    head = ["arm", "whole run", "s / step", "tokens", "GPU-hours", "share of surgery"]
    rows = [[each.name, *cost_cells(each)] for each in c.arms]
    about = (
        "Means over seeds. Whole run: with start-up and evaluations. Tokens: of the responses "
        "trained on. GPU-hours: GPUs that learners, engines and reward models took, times the "
        "whole run. Share of surgery: of the time of steps."
    )
    return f"## Cost of a run\n\n{table(head, rows)}\n\n{about}"


def cost_cells(each: ArmSummary) -> list[str]:
    """Duration, seconds a step, tokens, GPU-hours, share of surgery."""
    cost = each.cost
    return [
        seconds_text(cost.seconds.mean) if cost.seconds.n else MISSING,
        number(cost.step_seconds.mean, 2),
        f"{cost.tokens.mean:,.0f}" if cost.tokens.n else MISSING,
        number(cost.gpu_hours.mean, 2),
        percent(cost.surgery_share.mean),
    ]


def _runs(c: Comparison) -> str:
    rows = [
        [name, str(run.setting("seed", MISSING)), f"`{command_of(run.record)}`"]
        for name, run in c.runs
    ]
    rows += [
        [e.name, MISSING, f"not finished: {folder} ({why})"]
        for e in c.arms
        for folder, why in e.arm.absent.items()
    ]
    return f"## Runs\n\n{table(['arm', 'seed', 'command'], rows)}"


def command_of(record: dict[str, object]) -> str:
    """What made a run, for a shell."""
    import shlex

    sessions = record.get("sessions")
    first = sessions[0] if isinstance(sessions, list) and sessions else {}
    return shlex.join(first.get("command", []))
