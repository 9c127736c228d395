"""A reward that a user brings: found, configured, checked, loaded in an actor's place, recorded.

And the house's own side of it: no kind of reward is known by name outside the registry.
"""

import ast
import json
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgsrl.cli import main
from mgsrl.config import RewardConfig, SourceConfig
from mgsrl.config.compose import compose_config, config_from_yaml, config_to_yaml
from mgsrl.config.keys import members_keys
from mgsrl.config.reward import REWARDS, ScoreConfig
from mgsrl.config.typed import plain
from mgsrl.data.sources import load_rows
from mgsrl.errors import ConfigError, ContractError, DataError
from mgsrl.plugins import plugin_files
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.factory import check_reward, row_needs
from mgsrl.rewards.protocol import BaseReward, Response
from mgsrl.testing import check_reward as keeps_contract

PACKAGE = Path(__file__).resolve().parents[2] / "mgsrl"
CODE = '''
from dataclasses import dataclass
from mgsrl.rewards.protocol import BaseReward
from mgsrl.types import Reward

@dataclass
class CodeConfig:
    pass_rate: float = 1.0

    def validate(self, key):
        if self.pass_rate > 1:
            raise ValueError(f"{key}.pass_rate is above 1")

class CodeReward(BaseReward):
    """The share of the tests whose text stands in the response."""

    Config = CodeConfig
    requires = ("tests",)
    accepts = ("level",)
    bounds = (0.0, 1.0)

    def validate_reference(self, reference):
        if not isinstance(reference["tests"], list):
            raise ValueError("tests should be a list")

    def score(self, items):
        return [self._one(item) for item in items]

    def _one(self, item):
        tests = item.reference["tests"]
        share = sum(test["find"] in item.text for test in tests) / len(tests)
        details = {"finish": item.finish_reason, "level": item.reference.get("level")}
        return Reward(share * self.config.pass_rate, details=details)

class Leaky(CodeReward):
    def _one(self, item):
        return Reward(float("plum" in str(item.messages) + item.text))

class NoReward:
    Config = CodeConfig

def score(prompt, response):
    return 1.0
'''
TESTS = [{"find": "def"}, {"find": "return"}]
KEY = "domains.math.reward"


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`file.py:CodeReward` in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "my_rewards.py").write_text(CODE)
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"prompt": "Double it.", "cases": TESTS, "response": "def f(x): return 2 * x"})
        + "\n"
    )
    yield "my_rewards.py:CodeReward"
    for name in set(sys.modules) - before:
        if name.startswith("mgsrl_plugin_"):
            del sys.modules[name]


# --- configuration --------------------------------------------------------------------------------


def test_its_own_keys_stand_beside_the_others(code: str, tmp_path: Path) -> None:
    config = compose_config([f"{KEY}.kind={code}", f"{KEY}.pass_rate=0.5", f"{KEY}.weight=2"])
    reward = config.domains["math"].reward
    assert (reward.options.pass_rate, reward.weight) == (0.5, 2.0)
    written = plain(reward)
    assert written.keys() & {"pass_rate", "time_limit_s", "options"} == {"pass_rate"}
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    assert config_from_yaml(path) == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "pass_rat=1",
            r"a key of domains\.math\.reward, .* the kind my_rewards.*pass_rate",
        ),
        ("time_limit_s=3", r"(?s)time_limit_s is for math and constraints"),
        ("pass_rate=often", r"(?s)domains\.math\.reward\.pass_rate.*a finite number"),
    ],
)
def test_keys_that_it_does_not_have(code: str, change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        compose_config([f"{KEY}.kind={code}", f"{KEY}.{change}"])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nowhere.py:CodeReward", r"the file nowhere\.py"),
        ("no_such_lab.rewards:CodeReward", "the module 'no_such_lab.rewards'"),
        ("my_rewards.py:CodeRewrad", "did you mean 'CodeReward'"),
        ("my_rewards.py:NoReward", r"derives from mgsrl\.rewards\.protocol\.BaseReward"),
        ("my_rewards.py:score", r"derives from mgsrl\.rewards\.protocol\.BaseReward"),
        ("maths", "did you mean 'math'"),
    ],
)
def test_what_is_no_reward_ends_with_2(
    code: str, kind: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", f"{KEY}.kind={kind}", "--print-config"]) == 2
    error = capsys.readouterr().err
    assert KEY in error
    with pytest.raises(ConfigError, match=said):
        compose_config([f"{KEY}.kind={kind}"])


def test_another_kind_on_the_command_line_drops_the_keys_of_the_files(tmp_path: Path) -> None:
    chat = "domains.chat.reward"
    changes = [f"{chat}.weight=3", f"{chat}.url=http://h", f"{chat}.kind=http"]
    reward = compose_config(changes).domains["chat"].reward
    assert reward == RewardConfig.of("http", url="http://h", weight=3)
    with pytest.raises(ConfigError, match=r"url is for judge and http"):
        compose_config([f"{KEY}.kind=math", f"{KEY}.url=http://h"])
    one = compose_config([f"{KEY}.kind=math", f"{KEY}.time_limit_s=3"])  # as it was
    assert one.domains["math"].reward.options.time_limit_s == 3.0
    with_extra = compose_config(
        [f"{KEY}.extra.rm.kind=reward_model", f"{KEY}.extra.rm.path=pocket"]
    )
    assert with_extra.domains["math"].reward.extra["rm"].options.path == "pocket"


# --- another process ------------------------------------------------------------------------------


def test_it_is_found_by_a_process_elsewhere(code: str, tmp_path: Path) -> None:
    config = check_reward(RewardConfig.of(code, pass_rate=0.5), KEY)
    assert config.kind == f"{tmp_path / 'my_rewards.py'}:CodeReward"
    assert plugin_files()[code]["file"] == str(tmp_path / "my_rewards.py")
    response = Response((), "<response>def</response>", {"tests": TESTS}, "length")
    sent = tmp_path / "sent"
    sent.write_bytes(pickle.dumps((config, [response])))
    program = (
        "import pickle, sys; from mgsrl.rewards.actor import RewardWorker\n"
        "config, responses = pickle.load(open(sys.argv[1], 'rb'))\n"
        "(reward,) = RewardWorker(config).score(responses)\n"
        "print(reward.value, reward.format_ok, reward.details)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(sent)],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "0.25 True {'finish': 'length', 'level': None}"


# --- columns --------------------------------------------------------------------------------------


def test_columns_of_ones_own_reach_the_reward(code: str) -> None:
    needs = row_needs(RewardConfig.of(code))
    source = SourceConfig(kind="file", path="rows.jsonl", columns={"reference.tests": "cases"})
    for columns in ({"reference.tests": "cases"}, {"tests": "cases"}):
        source.columns = columns
        (row,) = load_rows(source, "code", key="domains.code.source", needs=needs)
        assert row.reference == {"tests": TESTS}
    source.columns = {}
    with pytest.raises(DataError, match=r"(?s)the column `tests`.*source\.columns\.tests=NAME"):
        load_rows(source, "code", key="domains.code.source", needs=needs)
    source.columns = {"reference.tests": "prompt"}
    with pytest.raises(DataError, match="tests should be a list"):
        load_rows(source, "code", key="domains.code.source", needs=needs)


def test_columns_for_any_kind_and_from_the_command_line(code: str) -> None:
    source = "domains.math.source"
    mapping = f"{source}.columns={{reference.unit: unit, answer: gold}}"
    config = compose_config([f"{source}.kind=file", f"{source}.path=u.jsonl", mapping])
    Path("u.jsonl").write_text('{"prompt": "a", "gold": 4, "unit": {"names": ["cm", null]}}\n')
    domain = config.domains["math"]
    (row,) = load_rows(domain.source, "math", key=source, needs=row_needs(domain.reward))
    assert row.reference == {"unit": {"names": ["cm", None]}, "answer": "4"}


def test_stored_responses_are_scored_with_it(code: str, tmp_path: Path) -> None:
    columns = ["--columns", "reference.tests=cases", "--whole-response"]
    assert main(["score", code, "rows.jsonl", "out.jsonl", *columns]) == 0
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row["reward"] == 1.0
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        f"domains: {{code: {{reward: {{kind: '{code}', pass_rate: 0.5}}, "
        "source: {kind: file, path: rows.jsonl, columns: {reference.tests: cases}}}}\n"
    )
    assert main(["score", "code", "rows.jsonl", "half.jsonl", "--as", "mine", *columns]) == 0
    (row,) = map(json.loads, (tmp_path / "half.jsonl").read_text().splitlines())
    assert row["reward"] == 0.5


# --- the contract ---------------------------------------------------------------------------------


def test_the_contract_of_a_users_class(code: str) -> None:
    case: dict[str, Any] = {"prompt": "p", "good": "def f: return", "bad": "no", "pass_rate": 0.5}
    keeps_contract(code, **case, reference={"tests": TESTS})
    with pytest.raises(ContractError, match="a right and a wrong response: expected different"):
        keeps_contract(
            "my_rewards.py:Leaky",
            prompt="Name a plum.",
            good="plum",
            bad="pear",
            reference={"tests": TESTS},
        )
    with pytest.raises(ValueError, match="tests should be a list"):
        keeps_contract(code, **case, reference={"tests": 1})


def test_the_page_s_class_works(code: str) -> None:
    """Its columns in YAML, its reward and its check, as they stand in docs/rewards.md."""
    page = (PACKAGE.parent / "docs" / "rewards.md").read_text(encoding="utf-8")
    section = page.split("### A class of your own")[1].split("\n### ")[0]
    blocks = re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)
    (own, check), (domain,) = ([t for n, t in blocks if n == name] for name in ("python", "yaml"))
    Path("my_rewards.py").write_text(own)
    Path("code.jsonl").write_text(Path("rows.jsonl").read_text())
    exec(compile(check, "docs/rewards.md", "exec"), {})
    Path("mine.yaml").write_text("# @package _global_\ndomains:\n" + textwrap.indent(domain, "  "))
    assert main(["data", "inspect", "--config", "mine.yaml", "--no-lengths"]) == 0
    columns = ["--columns", "reference.tests=cases"]
    assert main(["score", "code", "code.jsonl", "out.jsonl", "--as", "mine.yaml", *columns]) == 0
    assert json.loads(Path("out.jsonl").read_text())["reward"] == 1.0


# --- no names elsewhere ---------------------------------------------------------------------------


def kinds_in(node: ast.AST) -> set[str]:
    """The kinds that constants in an expression name."""
    found = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
    return found & REWARDS.members.keys()


def test_no_kind_is_known_by_name_outside_the_registry() -> None:
    """No comparison of something called a kind with one, no table by kind."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "reward.py" and path.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                called = " ".join(ast.unparse(side) for side in sides)
                named = kinds_in(node) if "kind" in called else set()
            elif isinstance(node, ast.Dict):
                named = kinds_in(ast.List([key for key in node.keys if key], ast.Load()))
                named = named if len(named) > 1 else set()
            else:
                continue
            if named:
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {sorted(named)}")
    assert not wrong, wrong


def test_every_kind_is_one_class_with_described_keys() -> None:
    for kind, own in members_keys(ScoreConfig).items():
        cls = REWARDS.load(kind, "k")
        assert issubclass(cls, BaseReward)
        assert cls.Config.__module__ == cls.__module__
        assert own
        assert not own.keys() & {*plain(RewardConfig())} - {*plain(cls.Config())}


def test_configuration_stays_light() -> None:
    """Composing a run, and asking its rewards what they need, loads no model's library."""
    heavy = ("torch", "sympy", "ray", "httpx2", "transformers", "vllm")
    program = (
        "import sys; from mgsrl.config.compose import compose_config\n"
        "from mgsrl.rewards.factory import row_needs\n"
        "config = compose_config([])\n"
        "for domain in config.domains.values(): row_needs(domain.reward)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_own_and_extra_may_read_different_columns() -> None:
    extra = {"style": ScoreConfig("constraints", missing_tag="whole_response")}
    needs = row_needs(RewardConfig(extra=extra))
    assert needs.requires == ("answer", "instruction_id_list", "kwargs")
    worker = RewardWorker(RewardConfig(extra=extra))
    reference = {"answer": "2", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    (reward,) = worker.score([Response((), "2", reference)])
    worker.close()
    assert (reward.value, reward.format_ok) == (0.0, False)
    assert reward.details["parts"]["style"]["value"] == 1.0
