"""The contract of engines: ours keep it, and each fault of an engine of one's own is found."""

import re
from pathlib import Path

import pytest

from mgsrl.errors import ConfigError, ContractError
from mgsrl.testing import check_engine

BROKEN = {
    "generate": ("return super().generate(requests)[::-1]", "in their order"),
    "logprobs": (
        "return super().logprobs(sequences, 1.1)",
        "its log-probabilities of a sequence",
    ),
    "finish_weight_update": (
        "super().finish_weight_update(weight_version); self.weight_version = 6",
        "the version of the new weights",
    ),
}
ARGUMENTS = {
    "generate": "requests",
    "logprobs": "sequences, temperature=1.0",
    "finish_weight_update": "weight_version=None",
}


def test_ours_keeps_it() -> None:
    check_engine("transformers")


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_keeps_it() -> None:
    check_engine("vllm")


@pytest.mark.parametrize("method", BROKEN)
def test_a_fault_is_named(method: str, tmp_path: Path) -> None:
    body, said = BROKEN[method]
    (tmp_path / "mine.py").write_text(
        "from mgsrl.rollout.transformers_engine import TransformersEngine\n"
        "class Mine(TransformersEngine):\n"
        f"    def {method}(self, {ARGUMENTS[method]}):\n        {body}\n"
    )
    with pytest.raises(ContractError, match=re.escape(said)):
        check_engine(f"{tmp_path / 'mine.py'}:Mine")


def test_what_is_no_engine(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine: ...\n")
    with pytest.raises(ConfigError, match=r"derived from mgsrl\.rollout\.engine\.Engine"):
        check_engine(f"{tmp_path / 'mine.py'}:Mine")
