"""The `mgsrl` command. Exit codes: 0 done, 2 the user's mistake (one message), 1 anything else.

Each command imports what it needs when it runs, so that `--help` and mistakes answer at once.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mgsrl import __version__
from mgsrl.cluster.session import on_sigterm
from mgsrl.errors import MgsrlError, UserError, nearest

TRAIN_EPILOG = """\
Overrides are KEY=VALUE; every key is in config.yaml of any run (mgsrl train --print-config).

examples:
  mgsrl train                                   the bundled model on the CPU, minutes
  mgsrl train strategy=mixed seed=1             a baseline, another seed
  mgsrl train train.num_steps=5 run.dir=/tmp/r  a short run in a folder of your choice
  mgsrl train +experiment=qwen_mgs              a whole experiment by name
  mgsrl train +experiment=qwen_mgs policy.path=/models/Qwen2.5-7B cluster.address=auto
  mgsrl train rollout.assignment=dedicated domains.math.num_workers=2
  mgsrl train resume=never                      start anew; an old run folder is set aside
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    command = next((item for item in arguments if not item.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        print(f"mgsrl: unknown command {command!r}; {nearest(command, COMMANDS)}", file=sys.stderr)
        return 2
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        COMMANDS[options.command][1](options)
        return 0
    except UserError as error:
        print(f"mgsrl: {error}", file=sys.stderr)
        return 2
    except MgsrlError as error:
        print(f"mgsrl: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"mgsrl: stopped by {str(error) or 'Ctrl-C'}", file=sys.stderr)
        return 1


def _train(options: argparse.Namespace) -> None:
    from mgsrl.config.compose import compose_config, config_to_yaml

    config = compose_config(options.overrides)
    if options.print_config:
        print(config_to_yaml(config))
        return
    # Imported here: torch and Ray take seconds, which a mistake must not wait for.
    from mgsrl.train.build import launch

    launch(config)


def _report(options: argparse.Namespace) -> None:
    from mgsrl.report.build import build_report

    print(build_report(Path(options.run_dir)))


def _compare(options: argparse.Namespace) -> None:
    from mgsrl.report.compare import compare_runs

    print(compare_runs([Path(folder) for folder in options.run_dirs], Path(options.output)))


def _doctor(options: argparse.Namespace) -> None:
    from mgsrl.cluster.preflight import doctor, print_checks

    print_checks(doctor())


def _score(options: argparse.Namespace) -> None:
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from mgsrl.rewards.score_file import score_file

    with Progress(
        *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()
    ) as bar:
        task = bar.add_task("scoring", total=None)
        summary = score_file(
            options.domain,
            Path(options.input),
            Path(options.output),
            loose=options.loose,
            whole_response=options.whole_response,
            workers=options.workers,
            reward_model=options.reward_model,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    mean = (
        "none scored" if summary.mean_reward is None else f"mean reward {summary.mean_reward:.4f}"
    )
    print(
        f"{options.output}: {summary.rows} rows, {mean}, {summary.abstained} abstained, "
        f"{summary.without_block} without a complete <response>"
    )


def _data(options: argparse.Namespace) -> None:
    from mgsrl.config.compose import compose_config
    from mgsrl.data.inspect import inspect_source
    from mgsrl.rewards.build import validator

    config = compose_config(options.overrides)
    for name, domain in config.domains.items():
        report = inspect_source(
            domain.source,
            name,
            key=f"domains.{name}.source",
            reward_kind=domain.reward.kind,
            validate=validator(domain.reward),
        )
        print("\n".join(report.lines()))


def _export(options: argparse.Namespace) -> None:
    from mgsrl.train.export import export_model

    print(export_model(Path(options.source), Path(options.output)))


Handler = Callable[[argparse.Namespace], None]
COMMANDS: dict[str, tuple[str, Handler]] = {
    "train": ("train a policy on several domains at once", _train),
    "report": ("write the HTML report of a run folder", _report),
    "compare": ("overlay several runs (strategies, seeds) in one HTML page", _compare),
    "score": ("score stored responses without training", _score),
    "data": ("look at the prompts of every domain: rows, lengths, duplicates, problems", _data),
    "export": ("turn a run or checkpoint into a plain Hugging Face folder", _export),
    "doctor": ("say what this machine can run and what is missing", _doctor),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mgsrl",
        description="Multi-domain RL post-training with Modular Gradient Surgery.",
        epilog="`mgsrl COMMAND --help` explains a command. Start with `mgsrl train`.",
    )
    parser.add_argument("--version", action="version", version=f"mgsrl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    parsers = {
        name: commands.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, (help_text, _) in COMMANDS.items()
    }
    train = parsers["train"]
    train.epilog = TRAIN_EPILOG + _choices_text()
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    train.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    parsers["report"].add_argument("run_dir", help="a run folder, e.g. runs/pocket-mgs-seed0")
    parsers["compare"].add_argument("run_dirs", nargs="+", help="two or more run folders")
    parsers["compare"].add_argument("-o", "--output", default="compare.html")
    score = parsers["score"]
    score.add_argument("domain", help="math | instruction_following | chat")
    score.add_argument("input", help="JSONL with prompt, response and the domain's reference")
    score.add_argument("output", help="JSONL: id, reward, abstained, details")
    score.add_argument("--loose", action="store_true", help="IFEval's loose variants count")
    score.add_argument(
        "--whole-response", action="store_true", help="rows hold no think/response tags"
    )
    score.add_argument("--workers", type=int, default=1, help="worker processes")
    score.add_argument("--reward-model", default="pocket", help="chat: folder or hub id")
    data = parsers["data"]
    data.add_argument("action", choices=["inspect"])
    data.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. domains=local_text")
    export = parsers["export"]
    export.add_argument("source", help="a run folder (its newest checkpoint) or a checkpoint")
    export.add_argument("output", help="folder for config, tokenizer and safetensors")
    return parser


def _choices_text() -> str:
    from mgsrl.config.compose import list_choices

    lines = []
    titles = {"experiment": "experiments", "strategy": "strategies", "domains": "domain sets"}
    for group, title in titles.items():
        lines.append(f"\n{title} ({group}=NAME):")
        lines += [f"  {name:<22} {comment}" for name, comment in list_choices(group).items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
