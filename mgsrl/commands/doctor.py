"""`mgsrl doctor`: what this machine can run, and whether the rewards keep their contract."""

import argparse

HELP = "say what this machine can run and what is missing; try the rewards"
EPILOG = """\
examples:
  mgsrl doctor                                  this machine
  mgsrl doctor rewards                          golden cases on the rewards of the default run
  mgsrl doctor rewards +experiment=qwen_mgs     those of an experiment
  mgsrl doctor rewards domains.chat.reward.kind=judge \\
      domains.chat.reward.url=http://localhost:8000/v1 domains.chat.reward.model=NAME

`doctor rewards` exits with 1 when a reward does not keep its contract.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("what", nargs="?", choices=["rewards"], help="default: the machine")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")


def run(options: argparse.Namespace) -> None:
    if options.what == "rewards":
        _rewards(options.overrides)
        return
    from mgsrl.cluster.preflight import checks_table, doctor
    from mgsrl.obs.terminal import output

    output().print(checks_table(doctor()))


def _rewards(overrides: list[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from mgsrl.config.compose import compose_config
    from mgsrl.errors import ContractError
    from mgsrl.obs.terminal import output
    from mgsrl.rewards.contract import check_rewards

    config = compose_config(overrides)
    rewards = {name: domain.reward for name, domain in config.domains.items()}
    broken, total, console = dict[str, int](), 0, output()
    for name, verdicts in check_rewards(rewards):
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
