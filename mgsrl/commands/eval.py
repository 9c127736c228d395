"""`mgsrl eval`: benchmark scores of a model, with intervals; a rerun continues."""

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mgsrl.config.model_path import POCKET_POLICY, find_model
from mgsrl.config.policy import PROMPT_TEMPLATES, PolicyConfig, check_date
from mgsrl.config.require import temperature
from mgsrl.config.rollout import ENGINES
from mgsrl.errors import ConfigError, nearest
from mgsrl.obs.outputs import not_an_input, shared_folder

if TYPE_CHECKING:
    from mgsrl.config.task import Task
    from mgsrl.evaluate.runner import Evaluation, OnProgress

HELP = "score a model on benchmarks: GSM8K, MATH-500, AIME, IFEval, IFBench, chat with a judge"
RUNS = "a run folder, a checkpoint, "
"""What --model names besides models."""
ENVIRONMENT = {
    # As in rollout actors; read when torch is imported. Waiting threads sleep: spinning, they take
    # the cores that the others need, and on a busy machine generation all but stops.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, help="model folder, hub id, run folder, checkpoint, or pocket"
    )
    parser.add_argument(
        "--tasks",
        required=True,
        metavar="NAME[=DATA],...",
        help="e.g. gsm8k,ifeval=FILE.jsonl,svamp=OWNER/NAME,my_task.py:TASK; docs/evaluation.md",
    )
    parser.add_argument("--output", help="folder for samples and results (default evals/MODEL)")
    parser.add_argument(
        "--force", action="store_true", help="start again: drop what the output folder holds"
    )
    parser.add_argument("--limit", metavar="N|NAME=N,...", help="first rows only")
    sampling = parser.add_argument_group("sampling (defaults: each task's own)")
    sampling.add_argument(
        "--engine", default="vllm", help=f"{', '.join(ENGINES.members)}, or your own"
    )
    sampling.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: float32 on a CPU, bfloat16 on a GPU",
    )
    sampling.add_argument(
        "--prompt-template", choices=PROMPT_TEMPLATES, help="default: the run's; chat without one"
    )
    sampling.add_argument(
        "--chat-template-kwargs",
        metavar="{NAME: VALUE, ...}",
        help="arguments of the chat template, as {enable_thinking: false} (default: the run's)",
    )
    sampling.add_argument(
        "--date",
        metavar="YYYY-MM-DD",
        help="the day that templates take for today (default: the run's, else that on which the "
        "evaluation began)",
    )
    sampling.add_argument("--samples", type=int, help="responses per prompt")
    sampling.add_argument("--temperature", type=float, help="0 decodes greedily")
    sampling.add_argument("--top-p", type=float)
    sampling.add_argument(
        "--max-new-tokens", type=int, help="default: the task's, at most half of the context"
    )
    sampling.add_argument("--seed", type=int, default=0)
    chat = parser.add_argument_group("chat tasks")
    chat.add_argument("--reward-model", default="", help="pocket, folder or hub id")
    chat.add_argument(
        "--baseline", help="FILE with a baseline's responses, or another eval's folder"
    )
    chat.add_argument("--judge-url", default="", help="OpenAI-compatible server, http://HOST/v1")
    chat.add_argument("--judge-model", default="", help="the name that the server knows")
    chat.add_argument("--judge-key-env", default="", help="environment variable with the API key")
    chat.add_argument("--judge-config", help="YAML (default: configs/judge/TASK.yaml)")


def run(options: argparse.Namespace) -> None:
    evaluation, checkpoint = plan(options)
    from mgsrl.report.evaluation import build_evaluation_report, print_table
    from mgsrl.report.extra import INSTALL, can_draw

    output, model = evaluation.settings.output, evaluation.settings.model
    for note in evaluation.notes:
        print(note)
    with _progress() as on_progress:
        if evaluation.missing:
            with _plain_folder(model["path"], checkpoint, output) as folder:
                evaluation.sample(folder, on_progress)
        failed = evaluation.score(on_progress)
    results = evaluation.results()
    report = build_evaluation_report(output)
    print_table(results)
    print(f"{report}\n{output / 'results.json'}")
    if not can_draw():
        print(f"the report has no picture: {INSTALL}")
    if failed:
        print(
            f"{len(failed)} responses were not judged ({failed[0]}); "
            "the same command asks for them again."
        )


def plan(options: argparse.Namespace) -> "tuple[Evaluation, Path | None]":
    """All that can be checked before an engine starts: settings, rows, judge and baseline.

    Returns:
        The evaluation, and the checkpoint that must be exported for it.

    Raises:
        UserError: anything that is wrong with them.
    """
    _check_values(options)
    if not Path(os.path.expanduser(options.model)).is_dir():
        find_model(options.model, "--model", POCKET_POLICY, RUNS)  # before the imports below
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mgsrl.evaluate.plan import EvalSettings
    from mgsrl.evaluate.runner import Evaluation
    from mgsrl.evaluate.tasks import parse_tasks

    tasks = parse_tasks(options.tasks)
    model, checkpoint = _identify(options.model)
    policy = template_of(options.chat_template_kwargs, checkpoint)
    settings = EvalSettings(
        tasks=tasks,
        output=_output(options, tasks, model["path"]),
        model=model,
        positions=_positions(model["path"], checkpoint),
        fresh=options.force,
        engine=_engine(options.engine),
        dtype=options.dtype,
        prompt_template=options.prompt_template or policy.prompt_template,
        chat_template_kwargs=policy.chat_template_kwargs,
        date=options.date or policy.date,
        seed=options.seed,
        limits=_limits(options.limit, [task.name for task in tasks]),
        samples=options.samples,
        temperature=options.temperature,
        top_p=options.top_p,
        max_new_tokens=options.max_new_tokens,
        reward_model=options.reward_model,
        baseline=Path(options.baseline) if options.baseline else None,
        judge_url=options.judge_url,
        judge_model=options.judge_model,
        judge_key_env=options.judge_key_env,
        judge_config=Path(options.judge_config) if options.judge_config else None,
    )
    return Evaluation(settings), checkpoint


def _check_values(options: argparse.Namespace) -> None:
    check_date("--date", options.date)
    for name, minimum, maximum in (
        ("samples", 1, None),
        ("top_p", 1e-6, 1),
        ("max_new_tokens", 1, None),
    ):
        value = getattr(options, name)
        if value is not None and not (minimum <= value <= (maximum or float("inf"))):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} is out of range.",
                expected=f"at least {minimum:g}" + (f", at most {maximum}" if maximum else ""),
                found=str(value),
                todo=f"change {flag}",
            )
    if options.temperature is not None:
        temperature("--temperature", options.temperature, greedy=True)
    if options.judge_url and not options.judge_model:
        raise ConfigError(
            "--judge-url needs --judge-model.",
            expected="the name under which the server knows the judge",
            found="none",
            todo="add --judge-model NAME",
        )


def _limits(text: str | None, tasks: list[str]) -> dict[str, int]:
    """`200`, or `gsm8k=200,ifeval=50`."""
    limits: dict[str, int] = {}
    for item in text.split(",") if text else []:
        name, equals, number = item.rpartition("=")
        if not number.isdecimal() or int(number) < 1 or (equals and name not in tasks):
            raise ConfigError(
                "--limit cannot be read.",
                expected="N, or NAME=N for tasks of --tasks; N of at least 1",
                found=repr(item) + (f"; {nearest(name, tasks)}" if equals else ""),
                todo="e.g. --limit 200, or --limit gsm8k=200",
            )
        limits |= {name: int(number)} if equals else dict.fromkeys(tasks, int(number))
    return limits


def _engine(name: str) -> str:
    ENGINES.check_name(name, "--engine")
    return name


def _identify(model: str) -> tuple[dict[str, Any], Path | None]:
    """What identifies the weights, and the checkpoint when they must be exported first."""
    from mgsrl.training.checkpoint import load_checkpoint, newest_checkpoint

    path = Path(os.path.expanduser(model))
    checkpoint = None
    if (path / "manifest.json").is_file():
        checkpoint = load_checkpoint(path)
    elif (path / "checkpoints").is_dir():
        checkpoint = newest_checkpoint(path / "checkpoints", print)
    if checkpoint is not None:
        manifest = (checkpoint.path / "manifest.json").read_bytes()
        return {
            "path": str(checkpoint.path.resolve()),
            "step": checkpoint.step,
            "files": hashlib.sha256(manifest).hexdigest()[:16],
        }, checkpoint.path
    resolved = find_model(model, "--model", POCKET_POLICY, RUNS)
    folder = Path(resolved)
    files = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.glob("*"))
        if file.is_file()
    ]
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16] if files else None
    return {"path": resolved, "files": digest}, None


def template_of(arguments: str | None, checkpoint: Path | None) -> PolicyConfig:
    """How the run wrote its prompts, but for the chat template's arguments that are given."""
    from mgsrl.config.compose import config_from_yaml
    from mgsrl.training.checkpoint import load_checkpoint

    policy = PolicyConfig()
    if checkpoint is not None:
        policy = config_from_yaml(load_checkpoint(checkpoint).config_file).policy
    if arguments is not None:
        policy = replace(policy, chat_template_kwargs=_mapping(arguments))
        policy.validate()
    return policy


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ConfigError(
            "--chat-template-kwargs cannot be read.",
            expected="a mapping, such as '{enable_thinking: false}'",
            found=repr(text),
            todo="mend it",
        )
    return value


def _positions(path: str, checkpoint: Path | None) -> int:
    """Tokens that the model takes; a checkpoint's configuration lies with its policy."""
    from mgsrl.config.compose import config_from_yaml
    from mgsrl.evaluate.sampling import positions_of
    from mgsrl.training.checkpoint import load_checkpoint

    if checkpoint is None:
        return positions_of(path)
    policy = config_from_yaml(load_checkpoint(checkpoint).config_file).policy
    return positions_of(find_model(policy.path, "policy.path", POCKET_POLICY))


def _output(options: argparse.Namespace, tasks: "Sequence[Task]", model: str) -> Path:
    """The folder to write, which must hold nothing that is read."""
    named = options.output or Path("evals") / evaluation_name(options.model)
    output = shared_folder(named, "--output")
    data = [task.test.file for task in tasks if task.test and task.test.file]
    given = [options.baseline, options.judge_config, options.reward_model]
    not_an_input(output, "--output", [model, *data, *filter(None, given)])
    return output


def evaluation_name(model: str) -> str:
    """What the folder of an evaluation is called where `--output` names none."""
    path = Path(os.path.expanduser(model))
    if (path / "manifest.json").is_file():  # runs/NAME/checkpoints/step_N
        return f"{path.resolve().parent.parent.name}-{path.name}"
    return path.resolve().name if path.is_dir() else model.replace("/", "--")


@contextmanager
def _plain_folder(path: str, checkpoint: Path | None, output: Path) -> Iterator[str]:
    """The weights as an engine loads them; a checkpoint is exported for as long as it is needed."""
    if checkpoint is None:
        yield path
        return
    from mgsrl.evaluate.store import MODEL_FOLDER
    from mgsrl.training.export import export_model

    folder = output / MODEL_FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a killed evaluation, maybe incomplete
    try:
        yield str(export_model(checkpoint, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _progress() -> "Iterator[OnProgress]":
    from rich.progress import TimeElapsedColumn

    from mgsrl.obs.terminal import counted_progress

    with counted_progress(TimeElapsedColumn()) as bar:
        console = bar.console
        tasks: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if not console.is_terminal:
                console.print(f"{what} {done}/{total}" if total else what)
                return
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None, completed=done)
            bar.update(tasks[what], completed=done)

        yield on_progress
