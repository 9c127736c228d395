"""`mgsrl plan` for people: tables of what `training/planned.py` found."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mgsrl.obs.terminal import output

if TYPE_CHECKING:
    from mgsrl.cluster.memory import Memory
    from mgsrl.training.forecast import Forecast
    from mgsrl.training.planned import Planned

Row = tuple[str, ...]
MOST_NODES = 4
"""Machines whose GPUs are shown one by one."""


def show(plan: "Planned") -> None:
    console, found, shape = output(), plan.memory, plan.memory.shape
    trained = "" if shape.trained == shape.parameters else f", {shape.trained:,} of them trained"
    console.print(f"model: {shape.parameters:,} parameters{trained}, from {shape.source}")
    for note in filter(None, (found.sharing, plan.config.learner.size_note)):
        console.print(note)
    places = [(p.what, str(p.count), f"{p.gpus_each:g}") for p in found.places]
    places.append(("GPUs in all", "", f"{found.gpus:g}"))
    console.print(_table("placement", places, ("process", "number", "GPUs each")))
    if plan.verdict.seats:
        console.print(_table("who is where", _seats(plan), ("machine", "GPU", "actors")))
    sizes = [(name, f"{size:,}") for name, size in found.batch.items()]
    console.print(_table("a step, at most", sizes, ("", "")))
    console.print(_table("one learner rank", _rows(found.learner), ("", "GiB")))
    if found.engine is not None:
        console.print(_table("one GPU of an engine", _rows(found.engine), ("", "GiB")))
        console.print(f"its cache holds {found.cached_sequences:,} sequences of full length")
    if plan.time is not None:
        _show_time(console, plan.time, plan.config.checkpoint.grace_s)
    else:
        console.print("no seconds: this card's rates are not known (--gpu NAME takes another's)")
    for line in _verdicts(plan):
        console.print(line)


def _show_time(console: Any, time: "Forecast", grace_s: float) -> None:
    rows = [
        (stage, f"{seconds:.3g}", f"{seconds / time.step_s:.0%}")
        for stage, seconds in time.seconds.items()
    ]
    if time.hidden:
        rows.append(("- rollouts made meanwhile", f"{time.hidden:.3g}", ""))
    rows.append(("a step", f"{time.step_s:.3g}", "100%"))
    console.print(_table("expected seconds of a step", rows, ("stage", "s", "share")))
    console.print(
        f"{time.tokens:,} response tokens a step, {time.tokens / time.step_s:,.0f} a second; "
        f"the learner computes {time.computed:,} in {time.micro_steps} micro-steps"
    )
    console.print(
        f"{time.num_steps:,} steps: {_hours(time.hours)}, with {time.evaluations} evaluations of "
        f"{time.evaluation_s:.3g} s\n"
        f"{time.checkpoints} checkpoints of {time.checkpoint_bytes / 1e9:.3g} GB: training waits "
        f"{time.checkpoint_wait_s:.2g} s for each ({time.checkpoint_s:.3g} s to the disk)"
    )
    short = f", too short: set checkpoint.grace_s={time.grace_s}" if grace_s < time.grace_s else ""
    console.print(
        f"stopped by a signal it saves its last step: {time.checkpoint_s:.3g} s, twice that while "
        f"another checkpoint is written, of checkpoint.grace_s={grace_s:g}{short}"
    )
    console.print("assumed:")
    for line in time.assumptions:
        console.print(f"  - {line}")


def _seats(plan: "Planned") -> list[Row]:
    seats = plan.verdict.seats
    rows: list[Row] = [
        (str(node), str(gpu), ", ".join(who) or "-")
        for node, machine in enumerate(seats[:MOST_NODES])
        for gpu, who in enumerate(machine)
    ]
    if len(seats) > MOST_NODES:
        rows.append((f"... {len(seats) - 1}", "", "all of them: --json"))
    return rows


def _rows(memory: "Memory") -> list[Row]:
    rows: list[Row] = [(name, _gib(size)) for name, size in memory.held.items()]
    if memory.phases:
        rows.append(("= held between steps", _gib(memory.held_bytes)))
        for phase, terms in memory.phases.items():
            rows.append((f"{phase}: in all", _gib(memory.held_bytes + sum(terms.values()))))
            rows += [(f"  + {name}", _gib(size)) for name, size in terms.items()]
    rows += [(f"{name} (the machine's memory)", _gib(size)) for name, size in memory.host.items()]
    return rows


def _verdicts(plan: "Planned") -> list[str]:
    from mgsrl.training.places import use_all
    from mgsrl.training.planned import measured

    found, gib = plan.memory, plan.hardware.gib
    phase, peak = found.learner.peak
    where = f"of {gib:.1f}" if found.device == "cuda" else "of the machine's memory"
    lines = [f"a learner rank needs {_gib(peak)} GiB {where} ({phase})"]
    for turn, size in (found.turns or {}).items():
        lines.append(f"on a shared GPU {turn} takes {_gib(size)} GiB of {gib:.1f}")
    if plan.idle:
        words = " ".join(use_all(plan.config, plan.hardware.num_gpus))
        lines.append(f"{plan.idle} of {plan.hardware.num_gpus} GPUs are idle")
        lines[-1] += f"; all of them work with {words}" if words else ""
    other = "seconds" if found.device == "cpu" else "seconds on a CPU"
    errors = (f"{what}, {text}" for what, text in measured().items() if what != other)
    return [*lines, *errors]


def _table(title: str, rows: Sequence[Row], columns: Row) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
