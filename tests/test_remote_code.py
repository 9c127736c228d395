"""No model's or tokenizer's own Python code runs unless it is asked for."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgsrl.config import PolicyConfig
from mgsrl.rewards.reward_model import RewardModelConfig

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path for room in ("mgsrl", "scripts", "reward_models") for path in (ROOT / room).rglob("*.py")
)
LOADERS = ("from_pretrained", "from_config", "LLM", "AsyncLLM", "EngineArgs", "pipeline")
HOLDS_NO_CODE = ("GenerationConfig.from_pretrained",)


def loading_calls(source: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.rpartition(".")[2] in LOADERS and name not in HOLDS_NO_CODE:
                yield node


def says_no(call: ast.Call) -> bool:
    """Whether the call passes False, or a setting of that name on."""
    values = [k.value for k in call.keywords if k.arg == "trust_remote_code"]
    return any(
        value.value is False
        if isinstance(value, ast.Constant)
        else ast.unparse(value).rpartition(".")[2] == "trust_remote_code"
        for value in values
    )


def test_every_loading_call_says_whether_remote_code_may_run() -> None:
    wrong, calls = [], 0
    for path in FILES:
        for call in loading_calls(path.read_text(encoding="utf-8")):
            calls += 1
            if not says_no(call):
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)[:80]}")
    assert not wrong, f"pass trust_remote_code: {wrong}"
    assert calls >= 12


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("AutoConfig.from_pretrained(path)", False),
        ("AutoConfig.from_pretrained(path, trust_remote_code=True)", False),
        ("AutoConfig.from_pretrained(path, trust_remote_code=None)", False),
        ("AutoConfig.from_pretrained(path, trust_remote_code=config.other)", False),
        ("LLM(model=path)", False),
        ("AutoConfig.from_pretrained(path, trust_remote_code=False)", True),
        ("LLM(model=path, trust_remote_code=self.trust_remote_code)", True),
    ],
)
def test_the_rule_can_be_broken(source: str, kept: bool) -> None:
    (call,) = loading_calls(source)
    assert says_no(call) is kept


def test_off_by_default() -> None:
    assert not PolicyConfig().trust_remote_code
    assert not RewardModelConfig().trust_remote_code
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arguments):
                pairs = [
                    *zip([*node.posonlyargs, *node.args][::-1], node.defaults[::-1]),
                    *zip(node.kwonlyargs, node.kw_defaults),
                ]
                for argument, default in pairs:
                    if argument.arg == "trust_remote_code" and default is not None:
                        assert ast.unparse(default) == "False", path


LOAD_REWARD_MODEL = """
import sys
from mgsrl.errors import UserError
from mgsrl.rewards.reward_model_torch import Classifier
try:
    Classifier(sys.argv[1])
except UserError as error:
    print(error)
"""
LOAD_FOR_EVALUATION = """
import sys
from mgsrl.config import PolicyConfig
from mgsrl.evaluate.sampling import PromptMaker
try:
    PromptMaker(PolicyConfig(path=sys.argv[1]), 0)
except (ValueError, OSError) as error:
    print(error)
"""


@pytest.mark.parametrize("code", [LOAD_REWARD_MODEL, LOAD_FOR_EVALUATION])
def test_a_folder_that_asks_for_its_own_code_is_refused(
    tiny_model: Path, tmp_path: Path, code: str
) -> None:
    """Even where somebody at the terminal would say yes: transformers asks when not told."""
    folder, marker = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import LlamaConfig\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        input="y\n" * 5,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "trust_remote_code" in done.stdout
    assert not marker.exists()
