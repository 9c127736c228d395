"""`mgsrl score`: rewards of stored responses, without training."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgsrl.commands.options import column
from mgsrl.config.policy import check_date
from mgsrl.errors import ConfigError, nearest
from mgsrl.obs.outputs import FORCE_HELP

if TYPE_CHECKING:
    from mgsrl.config import Config
    from mgsrl.config.reward import RewardConfig

HELP = "score stored responses without training"
EPILOG = """\
INPUT is .jsonl, .json, .parquet or .csv, text also packed (.jsonl.gz). A row holds `response`
(text, or messages that end with it), `answer` or `instruction_id_list` and `kwargs`, and, where a
model judges, `prompt` (text or messages); verl's and TRL's layouts are read as they are. OUTPUT is
JSON lines: id, reward, abstained, details.

`--as` takes the reward of a run or experiment: DOMAIN is then one of its domains. Without it math
is math-verify, instruction_following the share of constraints met (strict; --official for numbers
to compare with published ones), and chat the raw logit of the bundled reward model or of
--reward-model.

examples:
  mgsrl score math responses.jsonl scores.jsonl
  mgsrl score math rollouts.parquet scores.jsonl --columns response=output answer=gold
  mgsrl score chat responses.jsonl scores.jsonl --as runs/pocket-mgs-seed0
  mgsrl score instruction_following responses.jsonl.gz scores.jsonl --whole-response --loose
"""
SHAPING = ("clip", "standardise", "weight", "gate", "require_format", "format_bonus")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument(
        "domain",
        help="math | instruction_following | chat, a task (gsm8k, my_task.py:TASK), or one of --as",
    )
    parser.add_argument("input", metavar="INPUT", help="responses and their tasks")
    parser.add_argument("output", metavar="OUTPUT", help="JSON lines to write")
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)
    parser.add_argument(
        "--as",
        dest="like",
        metavar="RUN|EXPERIMENT|FILE",
        help="score as this run folder, experiment or YAML file of yours does; other options "
        "override it",
    )
    parser.add_argument("--loose", action="store_true", help="IFEval's loose variants count")
    parser.add_argument(
        "--official",
        action="store_true",
        help="constraints: the verdicts of the released checkers of IFEval and IFBench",
    )
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
    parser.add_argument(
        "--columns",
        nargs="+",
        action="extend",
        default=[],
        type=column,
        metavar="OURS=THEIRS",
        help="columns of INPUT, as response=output; dots reach into nested ones",
    )
    parser.add_argument(
        "--answer-pattern",
        default="",
        metavar="REGEX",
        help="its first group in the answer column is the answer",
    )
    parser.add_argument("--reward-model", help="chat: folder or hub id (default: pocket)")
    parser.add_argument(
        "--date",
        metavar="YYYY-MM-DD",
        help="the day that a reward model's template takes for today (default: that of --as, else "
        "today)",
    )


def run(options: argparse.Namespace) -> None:
    from mgsrl.obs.terminal import counted_progress
    from mgsrl.scoring.score_file import score_file, task_of
    from mgsrl.scoring.score_rows import Layout

    check_date("--date", options.date)
    reward, special_tokens, date = _reward(options)
    layout = Layout(dict(options.columns), options.answer_pattern)
    if not options.like:
        layout = replace(layout, task=task_of(options.domain))
    with counted_progress() as bar:
        task = bar.add_task("scoring", total=None)
        summary = score_file(
            reward,
            Path(os.path.expanduser(options.input)),
            Path(options.output),
            layout=layout,
            special_tokens=special_tokens,
            date=options.date or date,
            workers=options.workers,
            bad_rows=options.bad_rows,
            force=options.force,
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
    if summary.rows and summary.without_block == summary.rows and reward.missing_tag == "zero":
        print("no response has the tags: --whole-response scores all of the text")
    print("\n".join(_judges(reward, options.like)))


def _reward(options: argparse.Namespace) -> "tuple[RewardConfig, Sequence[str], str | None]":
    """The reward to score with, the special tokens that a model must not see, and the day that its
    template takes for today (None: today)."""
    from mgsrl.config.reward import RewardConfig
    from mgsrl.config.typed import plain, read_config
    from mgsrl.rewards.factory import rewards_of
    from mgsrl.scoring.score_file import default_reward

    keys = _keys(options)
    if not options.like:
        reward = default_reward(options.domain)
        _check_use(options, reward, keys)
        return default_reward(options.domain, keys), (), None
    config = _config_of(options.like)
    if options.domain not in config.domains:
        raise ConfigError(
            f"{options.like} has no domain {options.domain!r}.",
            expected=nearest(options.domain, config.domains),
            found=repr(options.domain),
            todo="name one of its domains",
        )
    reward = config.domains[options.domain].reward
    _check_use(options, reward, keys)
    reward = read_config(RewardConfig, {**plain(reward), **keys})
    if not any(each.templated for each in rewards_of(reward)):
        return reward, (), None
    from mgsrl.learner.policy import load_tokenizer

    special_tokens = tuple(load_tokenizer(config.policy).all_special_tokens)
    return reward, special_tokens, config.policy.date


def _keys(options: argparse.Namespace) -> dict[str, Any]:
    """The keys of the reward that options set."""
    from mgsrl.config.reward import OFFICIAL

    given = {
        "strict": False if options.loose else None,
        "reading": OFFICIAL if options.official else None,
        "path": options.reward_model,
        "missing_tag": "whole_response" if options.whole_response else None,
    }
    return {key: value for key, value in given.items() if value is not None}


def _check_use(
    options: argparse.Namespace, reward: "RewardConfig", keys: Mapping[str, Any]
) -> None:
    """Raise ConfigError for an option whose key this kind of reward does not have."""
    for key in keys:
        if not hasattr(reward.options, key) and not hasattr(reward, key):
            flag = {"strict": "--loose", "reading": "--official", "path": "--reward-model"}[key]
            raise ConfigError(
                f"{flag} does nothing for {options.domain}.",
                expected=f"a domain whose reward has the key `{key}`",
                found=f"the kind {reward.kind}",
                todo=f"leave {flag} out, or choose another domain",
            )


def _config_of(name: str) -> "Config":
    """The configuration of a run folder, of one of its checkpoints, or of an experiment."""
    from mgsrl.config.compose import compose_config, config_from_yaml, list_choices
    from mgsrl.config.own_files import names_in

    folder = Path(os.path.expanduser(name))
    if (folder / "manifest.json").is_file():
        folder = folder.parent.parent
    if (folder / "config.yaml").is_file():
        return config_from_yaml(folder / "config.yaml")
    if folder.suffix in (".yaml", ".yml"):
        return compose_config([], folder)
    experiments = [*list_choices("experiment"), *names_in(Path("configs"), "experiment")]
    if name not in experiments:
        found = "a folder without config.yaml" if folder.is_dir() else "neither"
        raise ConfigError(
            f"--as {name} is no run and no experiment.",
            expected=f"a run folder, FILE.yaml or an experiment ({nearest(name, experiments)})",
            found=found,
            todo="correct it, e.g. --as runs/pocket-mgs-seed0",
        )
    return compose_config([f"experiment={name}"])


def _judges(reward: "RewardConfig", like: str | None) -> list[str]:
    """Who judged, and what a run would still make of it."""
    from mgsrl.config.reward import OWN
    from mgsrl.rewards.factory import make_reward

    lines = []
    for name, score in reward.scores.items():
        what = "" if name == OWN else f" for {name}"
        lines.append(f"judged{what} by {make_reward(score).describe()}")
    if like is None and make_reward(reward).model_path:
        lines.append("as a run sees it (transform, its model): --as RUN|EXPERIMENT")
    if shaped := _shaping(reward):
        lines.append(f"before what {like} makes of it in training: {', '.join(shaped)}")
    return lines


def _shaping(reward: "RewardConfig") -> list[str]:
    """The keys that change a reward after it was given."""
    from mgsrl.config.reward import RewardConfig

    default = RewardConfig()
    names = [name for name in SHAPING if getattr(reward, name) != getattr(default, name)]
    names += ["overlong_penalty"] if reward.overlong_buffer else []
    return names + [f"the weighted sum with {name}" for name in reward.extra]
