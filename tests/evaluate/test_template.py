"""The chat template of an evaluation: its day is fixed, its arguments are the run's or given."""

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mgsrl.cli import main
from mgsrl.commands import eval as command
from mgsrl.config import Config, PolicyConfig
from mgsrl.config.compose import config_to_yaml
from mgsrl.errors import ConfigError
from mgsrl.evaluate import runner
from mgsrl.evaluate.plan import EvalSettings
from mgsrl.evaluate.runner import Evaluation
from mgsrl.evaluate.sampling import PromptMaker
from mgsrl.evaluate.store import store_settings
from mgsrl.evaluate.tasks import parse_tasks, source_of
from mgsrl.types import Sampling
from tests.checkpoints import save_checkpoint
from tests.conftest import CHAT_TEMPLATE

TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}\n"
    + CHAT_TEMPLATE
    + "{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}"
)


class Clock(datetime.date):
    now = "2024-07-26"

    @classmethod
    def today(cls) -> Any:
        return datetime.date.fromisoformat(cls.now)


def settings(tmp_path: Path, **own: Any) -> EvalSettings:
    file = tmp_path / "math.jsonl"
    file.write_text(json.dumps({"prompt": "1 + 1?", "answer": "2"}))
    tasks = parse_tasks(f"math={file}")
    return EvalSettings(tasks, tmp_path / "out", {"path": "x"}, positions=512, **own)


def begun(tmp_path: Path, **own: Any) -> Evaluation:
    """With one response stored, as if it had been stopped after it."""
    evaluation = Evaluation(settings(tmp_path, **own))
    store_settings(tmp_path / "out", evaluation._to_store)
    (plan,) = evaluation.plans
    plan.files.add_samples([{"id": id_, "sample": sample} for id_, sample in plan.keys])
    return evaluation


def test_an_evaluation_keeps_its_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "date", Clock)
    monkeypatch.setattr(Clock, "now", "2024-07-26")
    assert begun(tmp_path).date == "2024-07-26"
    Clock.now = "2024-07-27"
    assert Evaluation(settings(tmp_path)).date == "2024-07-26"
    assert Evaluation(settings(tmp_path, date="2024-07-26")).date == "2024-07-26"
    with pytest.raises(ConfigError, match="other settings"):
        Evaluation(settings(tmp_path, date="2024-07-27"))


def test_an_evaluation_from_before_days_were_recorded_goes_on(tmp_path: Path) -> None:
    begun(tmp_path)
    file = tmp_path / "out" / "eval.json"
    stored = json.loads(file.read_text())
    del stored["date"]
    file.write_text(json.dumps(stored))
    again = Evaluation(settings(tmp_path, date="2024-07-26"))
    assert again.date == "2024-07-26"
    assert len(again.plans) == 1


def test_other_arguments_do_not_mix(tmp_path: Path) -> None:
    begun(tmp_path, chat_template_kwargs={"a": 1})
    Evaluation(settings(tmp_path, chat_template_kwargs={"a": 1}))
    with pytest.raises(ConfigError, match="chat_template_kwargs"):
        Evaluation(settings(tmp_path))


def test_prompts_have_both(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    policy = PolicyConfig(
        path=str(model), date="2024-07-26", chat_template_kwargs={"enable_thinking": False}
    )
    maker = PromptMaker(policy, 0)
    (plan,) = Evaluation(settings(tmp_path)).plans
    (made,) = maker.requests("math", plan.missing, Sampling(0.0, 8))
    text = maker._tokenizer.decode(made.request.token_ids)
    assert text.startswith("26 Jul 2024\nuser: 1 + 1?")
    assert text.endswith("assistant: False")


def test_a_run_is_evaluated_as_it_was_trained(tmp_path: Path) -> None:
    policy = PolicyConfig(
        prompt_template="prompted",
        date="2024-07-26",
        chat_template_kwargs={"enable_thinking": False},
    )

    def write(learner: Path) -> None:
        (learner / "learner.json").write_text("{}")

    yaml = config_to_yaml(Config(policy=policy))
    checkpoint = save_checkpoint(tmp_path / "checkpoints", 1, {}, write, config_yaml=yaml)
    assert command.template_of(None, checkpoint) == policy
    own = command.template_of("{enable_thinking: true, budget: [1, 2]}", checkpoint)
    assert own.chat_template_kwargs == {"enable_thinking": True, "budget": [1, 2]}
    assert (own.date, own.prompt_template) == (policy.date, "prompted")
    assert command.template_of(None, None) == PolicyConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("thinking", "cannot be read"),
        ("{a: [}", "cannot be read"),
        ("{1: 2}", "cannot be read"),
        ("{tokenize: true}", "sets what mgsrl sets itself"),
    ],
)
def test_mistakes_are_one_message(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = f"math={source_of(settings(tmp_path).tasks[0])}"
    options = ["--tasks", tasks, "--output", str(tmp_path / "o"), "--chat-template-kwargs", text]
    assert main(["eval", "--model", "pocket", "--engine", "transformers", *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
