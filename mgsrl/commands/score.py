"""`mgsrl score`: rewards of stored responses, without training."""

import argparse
import sys
from pathlib import Path

HELP = "score stored responses without training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domain", help="math | instruction_following | chat")
    parser.add_argument("input", help="JSONL with prompt, response and the domain's reference")
    parser.add_argument("output", help="JSONL: id, reward, abstained, details")
    parser.add_argument("--loose", action="store_true", help="IFEval's loose variants count")
    parser.add_argument(
        "--whole-response", action="store_true", help="rows hold no think/response tags"
    )
    parser.add_argument("--workers", type=int, default=1, help="worker processes")
    parser.add_argument(
        "--bad-rows",
        choices=["error", "skip"],
        default="error",
        help="a row that cannot be scored: stop, or leave it out, counted and named",
    )
    parser.add_argument("--reward-model", default="pocket", help="chat: folder or hub id")


def run(options: argparse.Namespace) -> None:
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from mgsrl.scoring.score_file import score_file

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
            bad_rows=options.bad_rows,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for problem in summary.problems:
        print(f"left out: {problem}", file=sys.stderr)
    mean = (
        "none scored" if summary.mean_reward is None else f"mean reward {summary.mean_reward:.4f}"
    )
    print(
        f"{options.output}: {summary.rows} rows, {mean}, {summary.abstained} abstained, "
        f"{summary.without_block} without a complete <response>"
        + (f", {summary.skipped} bad rows left out" if summary.skipped else "")
    )
