"""Curricula: the authors' numbers, what moves a share and which way, states."""

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.config.curriculum import CURRICULA, FIXED, CurriculumConfig
from mgsrl.config.typed import read_config
from mgsrl.data.curricula.bandit import Bandit, BanditConfig
from mgsrl.data.curricula.protocol import Curriculum, Signals
from mgsrl.data.curricula.softmax import softmax
from mgsrl.data.curricula.transfer import Transfer, TransferConfig
from mgsrl.data.curricula.worst_task import WorstTask, WorstTaskConfig
from mgsrl.errors import ConfigError, ContractError
from mgsrl.testing import check_curriculum
from mgsrl.testing.curriculum import DOMAINS, random_signals
from tests.documented import ROOT
from tests.oracle import published_rows

ADAPTIVE = [name for name in CURRICULA.members if name not in FIXED]
ROWS = published_rows("oracle/curricula.json")


def made(kind: str, **keys: Any) -> Curriculum:
    config = read_config(CurriculumConfig, {"kind": kind, **keys})
    curriculum: Curriculum = CURRICULA.load(kind, "kind")(config.options, DOMAINS)
    return curriculum


def signals(**magnitudes: float) -> dict[str, Signals]:
    return {domain: Signals((value,) * 4, 0.5) for domain, value in magnitudes.items()}


@pytest.mark.parametrize("row", [row for row in ROWS if row["method"] == "bandit"])
def test_bandit_has_the_published_weights(row: dict[str, Any]) -> None:
    """The defaults but for the window, over which the authors' code has its mean."""
    bandit = Bandit(BanditConfig(window=row["window"]), DOMAINS)
    assert len(row["steps"]) > 4
    for step in row["steps"]:
        seen = {d: tuple(map(abs, values)) for d, values in step["advantages"].items()}
        bandit.observe({d: Signals(values, 0.0) for d, values in seen.items()})
        assert bandit.weights() == pytest.approx(step["weights"], rel=1e-9)


@pytest.mark.parametrize("row", [row for row in ROWS if row["method"] == "worst_task"])
def test_worst_task_has_the_published_logits(row: dict[str, Any]) -> None:
    keys = {name: row[name] for name in ("reward_weight", "step_size", "decay", "clip")}
    task = WorstTask(WorstTaskConfig(**keys), DOMAINS)
    assert len(row["steps"]) > 4
    for step in row["steps"]:
        task.update(step["rewards"], step["improvements"])
        logits = {domain: each["logit"] for domain, each in task.state().items()}
        assert logits == pytest.approx(step["logits"], rel=1e-8, abs=1e-12)
        assert task.weights() == pytest.approx(step["weights"], rel=1e-8)


def test_the_published_defaults() -> None:
    published = next(row for row in ROWS if row["method"] == "worst_task")
    for name in ("reward_weight", "step_size", "decay", "clip"):
        assert getattr(WorstTaskConfig(), name) == published[name]


@pytest.mark.parametrize("kind", CURRICULA.members)
def test_ours_keep_the_contract(kind: str) -> None:
    check_curriculum(kind)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["bandit", "transfer"]),
    steps=st.lists(
        st.tuples(*[st.floats(0, 3)] * 3, st.integers(0, 6)).map(tuple), min_size=1, max_size=8
    ),
    more=st.floats(0, 2),
)
def test_a_domain_with_larger_advantages_never_gets_less(
    kind: str, steps: list[tuple[float, float, float, int]], more: float
) -> None:
    """Than it would with smaller ones, and than another with smaller ones that is alike else."""
    plain, larger = made(kind), made(kind)
    for math_, chat, code, count in steps:
        for curriculum, first in ((plain, math_), (larger, math_ + more)):
            values = {"math": first, "chat": chat, "code": code}
            curriculum.observe({d: Signals((v,) * count, 0.5) for d, v in values.items()})
    assert larger.weights()["math"] >= plain.weights()["math"] * (1 - 1e-9)
    ordered = made(kind)
    for math_, chat, code, count in steps:
        low, middle, high = sorted((math_, chat, code))
        ordered.observe(signals(math=high, chat=middle, code=low) if count else {})
    found = ordered.weights()
    assert found["math"] >= found["chat"] >= found["code"]


def test_bandit_looks_at_what_it_has_seen_little_of() -> None:
    bandit = Bandit(BanditConfig(exploration=1.0), DOMAINS)
    bandit.observe(signals(math=0.5, chat=0.5) | {"code": Signals((0.5,), 0.5)})
    weights = bandit.weights()
    assert weights["code"] > weights["math"] == weights["chat"]
    blind = Bandit(BanditConfig(exploration=0.0), DOMAINS)
    blind.restore(bandit.state())
    assert blind.weights() == pytest.approx(dict.fromkeys(DOMAINS, 1 / 3))


def test_bandit_forgets_what_is_older_than_its_window() -> None:
    bandit = Bandit(BanditConfig(window=4), ("math",))
    bandit.observe(signals(math=9.0))
    bandit.observe(signals(math=0.25))
    assert bandit.state()["math"] == {"window": [0.25] * 4, "seen": 8}


def test_worst_task_goes_to_low_rewards_and_from_those_that_rise() -> None:
    task = WorstTask(WorstTaskConfig(), ("math", "chat"))
    for _ in range(20):
        task.observe({"math": Signals((), 0.9), "chat": Signals((), 0.1)})
    weights = task.weights()
    assert weights["chat"] > 2 * weights["math"]
    rising = WorstTask(WorstTaskConfig(reward_weight=0.0), ("math", "chat"))
    for step in range(6):
        rising.observe({"math": Signals((), 0.1 * step), "chat": Signals((), 0.1)})
    assert rising.weights()["math"] < rising.weights()["chat"]


def test_worst_task_leaves_out_what_it_has_no_reward_of() -> None:
    task = WorstTask(WorstTaskConfig(), DOMAINS)
    task.observe({"math": Signals((), math.nan)})
    assert task.weights() == pytest.approx(dict.fromkeys(DOMAINS, 1 / 3))
    task.observe({"math": Signals((), 0.9), "chat": Signals((), 0.1)})
    state = task.state()
    assert state["code"]["updates"] == 0
    assert state["math"]["logit"] < 0 < state["chat"]["logit"]


def test_transfer_goes_to_what_helps_the_others() -> None:
    seen = Signals((0.5,) * 4, 0.5)
    step = {
        "math": replace(seen, cosines={"chat": 0.6, "code": 0.4}),
        "chat": replace(seen, cosines={"math": 0.6, "code": -0.9}),
        "code": replace(seen, cosines={"math": 0.4, "chat": -0.9}),
    }
    transfer = Transfer(TransferConfig(), DOMAINS)
    transfer.observe(step)
    # by hand: 0.5 * (1 + mean cosine)
    assert transfer.scores() == pytest.approx({"math": 0.75, "chat": 0.425, "code": 0.375})
    assert transfer.weights() == softmax(transfer.scores(), 0.1)
    blind = Transfer(TransferConfig(alignment=0.0), DOMAINS)
    blind.observe(step)
    assert blind.weights() == pytest.approx(dict.fromkeys(DOMAINS, 1 / 3))


def test_transfer_smooths_over_steps() -> None:
    transfer = Transfer(TransferConfig(memory=0.75), ("math", "chat"))
    for value in (1.0, 0.0):
        transfer.observe({"math": Signals((value,), 0.5, {"chat": 2 * value - 1})})
    assert transfer.state() == {"learnability": {"math": 0.75}, "alignment": {"math": 0.5}}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(ADAPTIVE),
    seed=st.integers(0, 10**6),
    before=st.integers(0, 6),
    after=st.integers(1, 6),
)
def test_what_a_state_restores_goes_on_to_the_bit(
    kind: str, seed: int, before: int, after: int
) -> None:
    draw = random.Random(seed)
    one, other = made(kind), made(kind)
    for _ in range(before):
        one.observe(random_signals(draw))
    saved = json.loads(json.dumps(one.state()))
    for _ in range(after):
        step = random_signals(draw)
        one.observe(step)
        other.restore(saved)
        other.observe(step)
        saved = json.loads(json.dumps(other.state()))
        assert one.weights() == other.weights()


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(-1e6, 1e6), min_size=1))
def test_a_softmax_adds_up_to_1_and_leaves_nobody_out(scores: dict[str, float]) -> None:
    for temperature in (1e-3, 1.0, 1e9):
        found = softmax(scores, temperature)
        assert sum(found.values()) == pytest.approx(1.0)
        assert min(found.values()) > 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "bandit", "window": 0}, "data.curriculum.window is too small"),
        ({"kind": "bandit", "temperature": 0}, "data.curriculum.temperature is too small"),
        ({"kind": "bandit", "exploration": -1}, "data.curriculum.exploration is too small"),
        ({"kind": "worst_task", "memory": 1}, "data.curriculum.memory is out of range"),
        ({"kind": "worst_task", "step_size": 0}, "data.curriculum.step_size is too small"),
        ({"kind": "transfer", "alignment": 2}, "data.curriculum.alignment is out of range"),
        ({"kind": "transfer", "floor": 1.5}, "data.curriculum.floor is out of range"),
    ],
)
def test_values_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(CurriculumConfig, keys).validate("data.curriculum")


def test_the_one_of_the_page_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"(?ms)^```python\n# lowest\.py\n(.*?)^```", page)
    (tmp_path / "lowest.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    check_curriculum("lowest.py:Lowest", power=3)


class Forgets(Bandit):
    """Its state lacks what was seen."""

    def state(self) -> dict[str, Any]:
        return {d: {"window": list(w), "seen": 0} for d, w in self._window.items()}


class Negative(Bandit):
    def weights(self) -> dict[str, float]:
        return {domain: score - 99.0 for domain, score in self.scores().items()}


class Fickle(Bandit):
    asked = 0

    def weights(self) -> dict[str, float]:
        self.asked += 1
        return dict.fromkeys(self.domains, float(self.asked))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Forgets, "after restoring"), (Negative, "numbers >= 0"), (Fickle, "asked twice")],
)
def test_one_that_does_not_keep_the_contract_is_told(kind: type, expected: str) -> None:
    with pytest.raises(ContractError, match=expected):
        check_curriculum(kind)
