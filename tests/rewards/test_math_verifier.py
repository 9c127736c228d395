"""The math verifier and the process it runs in: the real one, killed for real."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mgsrl.errors import DataError, WorkerDiedError
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.math_verifier import MathVerifier, reference_answer
from mgsrl.rewards.protocol import Response
from mgsrl.types import Reward
from tests.rewards.loaded import math_worker, process_of

LIMIT_S = 1.5


@pytest.fixture(scope="module")
def verifier() -> Iterator[RewardWorker]:
    verifier = math_worker(time_limit_s=LIMIT_S, missing_tag="whole_response")
    yield verifier
    verifier.close()


def score(verifier: RewardWorker, answer: object, response: str) -> Reward:
    return verifier.score([Response((), response, {"answer": answer})])[0]


@pytest.mark.parametrize(
    ("answer", "response", "value"),
    [
        ("18", "<response>So it is \\boxed{18}.</response>", 1.0),
        (18, "<response>\\boxed{18}</response>", 1.0),
        (18.0, "<response>\\boxed{18}</response>", 1.0),
        ("18", "<think>18</think><response>\\boxed{17}</response>", 0.0),
        ("18", "<response>\\boxed{18}</response> <response>\\boxed{19}</response>", 0.0),
        ("1,234", "The total is 1234 apples.", 1.0),
        ("-3", "Therefore the answer is -3", 1.0),
        ("7", "Therefore the answer is +7", 1.0),
        ("\\frac{1}{2}", "\\boxed{0.5}", 1.0),
        ("\\frac{1}{3}", "\\dfrac{1}{3}", 1.0),
        ("\\frac{1}{3}", "\\boxed{0.33}", 0.0),
        ("x^2+2x+1", "\\boxed{(x+1)^2}", 1.0),
        ("1", "x^2 + 2x + 1", 0.0),
        ("10\\%", "\\boxed{10\\%}", 1.0),
        ("(1, 2]", "\\boxed{(1,2]}", 1.0),
        ("\\{1, 2\\}", "\\boxed{\\{2, 1\\}}", 1.0),
        ("C", "The answer is (C).", 1.0),
        ("C", "\\boxed{\\text{(C)}}", 1.0),
        ("C", "The answer is (B).", 0.0),
        ("18", "I do not know.", 0.0),
        ("18", "", 0.0),
        ("\\$10", "\\boxed{10}", 1.0),
        # Short answers: emphasis, what introduces them, lists, signs, the reference word for word.
        ("18", "A: 18", 1.0),
        ("18", "so it is 18", 1.0),
        ("18", "**18**", 1.0),
        ("18", "x^2 + 18", 0.0),
        ("3,4,5", "3, 4, 5", 1.0),
        ("3,4,5", "3, 4", 0.0),
        ("yes", "Yes.", 1.0),
        ("\\text{Monday}", "Monday", 1.0),
        ("Monday", "Sunday", 0.0),
        ("2\\sqrt{3}", "2√3", 1.0),
        ("(-\\infty, 3]", "(-∞, 3]", 1.0),
        ("30", "30°", 1.0),
        ("50", "\\boxed{50\\%}", 1.0),
        ("0.5", "\\boxed{50\\%}", 1.0),
        ("5", "\\boxed{50\\%}", 0.0),
        ("50", "The answer is 50%.", 1.0),
        # Multiple choice: letters of prose are no options.
        ("B", "I think it's B", 1.0),
        ("B", "A train leaves. Therefore B", 1.0),
        ("B", "B) 5", 1.0),
        ("B", "b", 1.0),
        ("B", "\\boxed{\\textbf{(B)}\\ 5}", 1.0),
        ("B", "\\boxed{\\text{(B) 5}}", 1.0),
        ("A", "\\boxed{\\textbf{(B)}\\ 5}", 0.0),
        ("A", "A is right", 1.0),
        ("I", "I think it's B", 0.0),
    ],
)
def test_verdicts(verifier: RewardWorker, answer: object, response: str, value: float) -> None:
    reward = score(verifier, answer, response)
    assert (reward.value, reward.error) == (value, None)


def test_the_extracted_answer_is_reported(verifier: RewardWorker) -> None:
    assert score(verifier, "2", "It is \\boxed{1 + 1}.").details == {"extracted": "1 + 1"}
    assert score(verifier, "2", "Nothing here.").details == {"extracted": None}
    assert score(verifier, "\\boxed{", "2").details == {"extracted": None}
    with_tags = math_worker(missing_tag="zero")  # its process is never started
    assert score(with_tags, "2", "2").details["extracted"] is None


def test_the_prompt_is_never_searched(verifier: RewardWorker) -> None:
    prompt = {"role": "user", "content": "What is \\boxed{18}?"}
    item = Response((prompt,), "<response>no</response>", {"answer": "18"})
    assert verifier.score([item])[0].value == 0.0


def test_an_unreadable_reference_abstains(verifier: RewardWorker) -> None:
    reward = score(verifier, "\\boxed{", "\\boxed{1}")
    assert reward.abstained
    assert "reference answer" in (reward.error or "")


SLOW = {
    "power tower": r"\boxed{9^{9^{9^{9}}}}",
    "factorial": r"\boxed{99999999!}",
    "power of a sum": r"\boxed{(a+b+c+d+e+f)^{200}}",
    "nested sines": r"\boxed{" + "\\sin(" * 300 + "x" + ")" * 300 + "}",
}
QUICK = {
    "python power": "9**9**9**9",
    "braces": "\\boxed" + "{" * 10_000 + "1" + "}" * 10_000,
    "digits": "7" * 1_000_000,
    "boxed digits": r"\boxed{" + "7" * 1_000_000 + "}",
    "spaces": " " * 200_000 + "1",
    "dollars": "$" * 50_000,
    "boxes": "\\boxed{" * 20_000,
    "lines": "\n" * 100_000 + "B)",
    "surrogate": "\\boxed{\x00\ud83d}",
}


@pytest.mark.parametrize("name", SLOW)
def test_a_bomb_is_killed_and_abstains(verifier: RewardWorker, name: str) -> None:
    process_of(verifier).start()
    starts, started = process_of(verifier).starts, time.monotonic()
    reward = score(verifier, "x^2", SLOW[name])
    assert reward.abstained
    assert "no answer within" in (reward.error or "")
    assert time.monotonic() - started < LIMIT_S + 2
    assert score(verifier, "4", "\\boxed{4}").value == 1.0
    assert process_of(verifier).starts == starts + 1


@pytest.mark.parametrize("name", QUICK)
def test_hostile_text_ends_within_the_limit(verifier: RewardWorker, name: str) -> None:
    process_of(verifier).start()
    started = time.monotonic()
    assert score(verifier, "12", QUICK[name]).value in (0.0, None)
    assert time.monotonic() - started < LIMIT_S + 2


@pytest.mark.parametrize(
    "template", [r"\boxed{%s}", "%s", "$%s$", r"\boxed{\text{%s}}", "The answer is %s"]
)
def test_nothing_is_executed(verifier: RewardWorker, template: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    reward = score(verifier, "1", template % f"__import__('os').system('touch {marker}')")
    assert reward.value in (0.0, None)
    assert not marker.exists()


def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MathVerifier, "memory_mib", 30)
    verifier = math_worker(time_limit_s=2, missing_tag="whole_response")
    try:
        with pytest.raises(WorkerDiedError, match=r"(?i)the process ended.*(memory|error)"):
            process_of(verifier).start()
    finally:
        verifier.close()


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MathVerifier, "memory_mib", 400)
    verifier = math_worker(time_limit_s=2, missing_tag="whole_response")
    try:
        reward = score(verifier, "1", r"\boxed{2^{20000000000}}")
        assert reward.value != 1.0
        assert score(verifier, "4", "\\boxed{4}").value == 1.0
        rss = psutil.Process(process_of(verifier).pid).memory_info().rss
        assert rss < 400 * 2**20
    finally:
        verifier.close()


def test_close_leaves_no_process() -> None:
    verifier = math_worker(missing_tag="whole_response")
    score(verifier, "4", "\\boxed{4}")
    pid = process_of(verifier).pid
    assert pid is not None
    verifier.close()
    verifier.close()
    assert not psutil.pid_exists(pid)
    assert score(verifier, "4", "\\boxed{4}").abstained


@pytest.mark.parametrize("answer", [None, "", "  ", True, [1], {"a": 1}])
def test_bad_references_are_data_errors(answer: object) -> None:
    with pytest.raises(DataError, match="expected"):
        reference_answer({"answer": answer})


def test_good_references() -> None:
    for answer in ("18", 18, 0, 2.5, "\\frac12"):
        reference_answer({"answer": answer})
