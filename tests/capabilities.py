"""Which combinations were seen to work: marks on tests, written down when the tests pass.

    @pytest.mark.capability(feature="whole run", zero=3, engine="transformers", dtype="float32")

says what a test shows; `refused=True`, that the combination is refused with a message. A tuple says
it of each of its values. What is not said (None) does not matter to the test.
`pytest --capabilities FILE` (`make capabilities`) adds a line to FILE for every such test that
passed; `scripts/capability_table.py` makes the page of them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.learner.parts import Case

KEYS = ("feature", "zero", "lora", "engine", "dtype")
BASE = "update by surgery"


def of_case(case: "Case", *features: str) -> list[Any]:
    """The marks of a learner's test: `features`, or what the case varies."""
    varied = {
        "gradient checkpointing": case.gradient_checkpointing,
        "optimizer offload": case.offload_optimizer,
        "reference on the host": case.offload_reference,
        "kept gradients in bfloat16": case.buffer_dtype == "bfloat16",
        "kept gradients on the CPU": case.buffer_device == "cpu",
        "reliability by halves": case.reliability_every > 0,
        "measure only": case.measure_only,
        "frozen parameters": bool(case.frozen),
        "several updates per batch": case.updates_per_batch > 1,
        "no reference": case.kl_coef == 0,
        "an algorithm per domain": bool(case.own),
        "distillation from a teacher": any("teacher" in own for own in case.own.values()),
        "dead groups dropped, or counted for less": any(
            "dead_group_weight" in own for own in case.own.values()
        ),
    }
    chosen = features or [name for name, on in varied.items() if on] or [BASE]
    facts = {"zero": case.zero_stage, "lora": case.lora.rank > 0, "dtype": case.dtype}
    slow = [pytest.mark.slow] if case.slow else []
    return [*slow, *(pytest.mark.capability(feature=name, **facts) for name in chosen)]


def of_run(*features: str, **facts: Any) -> pytest.MarkDecorator:
    """The mark of a test of whole runs: `features`, and what differs from the runs' settings."""
    usual = {"zero": 2, "lora": False, "engine": "transformers", "dtype": "float32"}
    return pytest.mark.capability(feature=features, **{**usual, **facts})


def marked(
    cases: Mapping[int, Mapping[str, "Case"]], runs: Iterable[tuple[str, int]], *features: str
) -> list[Any]:
    """(name, world size) as parameters of a test that shows what `of_case` says of the case."""
    return [pytest.param(name, n, marks=of_case(cases[n][name], *features)) for name, n in runs]


def named(cases: Mapping[str, "Case"], names: Iterable[str], *features: str) -> list[Any]:
    """The same of tests that take a name only."""
    return [pytest.param(name, marks=of_case(cases[name], *features)) for name in names]


def shown(item: pytest.Item) -> Iterator[dict[str, Any]]:
    """What the marks of a test say, as records."""
    for mark in item.iter_markers("capability"):
        unknown = set(mark.kwargs) - {*KEYS, "refused"}
        if unknown or mark.args:
            raise ValueError(f"{item.nodeid}: capability takes {KEYS}, found {mark}")
        values = [mark.kwargs.get(key) for key in KEYS]
        status = "refused" if mark.kwargs.get("refused") else "tested"
        for each in product(*(v if isinstance(v, tuple) else (v,) for v in values)):
            yield {**dict(zip(KEYS, each)), "status": status, "test": item.nodeid}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--capabilities", metavar="FILE", help="add what passing tests show to FILE")


def pytest_configure(config: pytest.Config) -> None:
    line = "capability(feature, zero, lora, engine, dtype, refused): what it shows when it passes"
    config.addinivalue_line("markers", line)


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Properties travel with the report, from the processes of pytest-xdist too.
    item.user_properties += [("capability", record) for record in shown(item)]


class Writer:
    """Writes in the process that hears of all tests."""

    def __init__(self, path: str) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or not report.passed:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            for name, record in report.user_properties:
                if name == "capability":
                    file.write(json.dumps(record) + "\n")


def pytest_sessionstart(session: pytest.Session) -> None:
    path = session.config.getoption("--capabilities")
    if path and not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(Writer(path))
