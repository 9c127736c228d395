"""`mgsrl doctor`: what this machine can run, and whether the rewards keep their contract."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from mgsrl.commands.options import add_overrides, composed
from mgsrl.errors import ConfigError

if TYPE_CHECKING:
    from mgsrl.config import Config

HELP = "say what this machine can run and what is missing; try the rewards"
EPILOG = """\
examples:
  mgsrl doctor                                  this machine
  mgsrl doctor +experiment=qwen_mgs             this machine, and whether that would run on it
  mgsrl doctor +experiment=qwen_mgs cluster.address=HOST:PORT     every machine of that cluster
  mgsrl doctor rewards                          golden cases on the rewards of the default run
  mgsrl doctor rewards +experiment=qwen_mgs     those of an experiment
  mgsrl doctor rewards domains.chat.reward.kind=judge \\
      domains.chat.reward.url=http://localhost:8000/v1 domains.chat.reward.model=NAME

`doctor rewards` exits with 1 when a reward does not keep its contract; `doctor KEY=VALUE` with 2
when a run with that configuration could not start here.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.usage = "mgsrl doctor [-h] [--config FILE] [--config-dir DIR] [rewards] [KEY=VALUE ...]"
    # Not two arguments: argparse would take the first override for what is looked at.
    add_overrides(parser, "`rewards` first: try those; Hydra overrides")


def run(options: argparse.Namespace) -> None:
    words = list(options.overrides)
    if words[:1] == ["rewards"]:
        _rewards(composed(options, words[1:]))
        return
    if words and "=" not in words[0] and not words[0].startswith("~"):
        raise ConfigError(
            f"`mgsrl doctor` cannot look at {words[0]!r}.",
            expected="`rewards`, or overrides KEY=VALUE",
            found=repr(words[0]),
            todo="correct it (see `mgsrl doctor --help`)",
        )
    config = composed(options)  # mistakes in it before the seconds that looking takes
    _machine(config, asked=bool(words or options.config))


def _machine(config: "Config", asked: bool) -> None:
    from mgsrl.cluster.preflight import checks_table, doctor
    from mgsrl.obs.terminal import output

    output().print(checks_table(doctor()))
    if asked:
        from mgsrl.training.machine import check_fits
        from mgsrl.training.plan import check_parts

        check_fits(config)
        check_parts(config)
        if config.cluster.address != "local":
            _cluster(config)
        print("a run with this configuration can start here (its data were not read)")


def _cluster(config: "Config") -> None:
    from mgsrl.cluster.session import ray_session
    from mgsrl.obs.terminal import output
    from mgsrl.training.joined import check_cluster

    with ray_session(config.cluster):
        check_cluster(config, output().print, print, all_=True)


def _rewards(config: "Config") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from mgsrl.data.sources import load_rows
    from mgsrl.errors import ContractError
    from mgsrl.obs.terminal import output
    from mgsrl.rewards.contract import check_rewards
    from mgsrl.rewards.factory import row_needs
    from mgsrl.rewards.protocol import OPEN, Golden

    def row_of(name: str) -> Golden:
        domain = config.domains[name]
        source = replace(domain.source, limit=1)
        key = f"domains.{name}.source"
        (row,) = load_rows(
            source, name, key=key, needs=row_needs(domain.reward, f"domains.{name}.reward")
        )
        return replace(OPEN, prompt=str(row.messages[-1]["content"]), reference=row.reference)

    rewards = {name: domain.reward for name, domain in config.domains.items()}
    broken, total, console = dict[str, int](), 0, output()
    for name, verdicts in check_rewards(rewards, row_of):
        table = Table(title=name, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for column in ("", "check", "expected", "found"):
            table.add_column(column, overflow="fold", header_style="bold")
        for verdict in verdicts:
            status = Text("ok", style="green") if verdict.kept else Text("fail", style="red")
            texts = (verdict.check, verdict.expected, verdict.found)
            table.add_row(status, *map(Text, texts))
        console.print(table)
        total += len(verdicts)
        if failed := sum(not verdict.kept for verdict in verdicts):
            broken[name] = failed
    if broken:
        found = ", ".join(f"{name} {failed}" for name, failed in broken.items())
        raise ContractError(f"{sum(broken.values())} of {total} checks fail: {found}")
    print(f"all {total} checks pass")
