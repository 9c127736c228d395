"""`mgsrl train`: one training run, new or resumed."""

import argparse

from mgsrl.commands.options import add_overrides, composed

HELP = "train a policy on several domains at once"
EPILOG = """\
Overrides are KEY=VALUE; every key is in config.yaml of any run (mgsrl train --print-config).
Text with other characters than letters, digits and / . - _ stands in double quotes, all of it in
single ones for the shell: 'run.dir="runs/lr=1e-4, b"'. A home folder (run.dir=~/r) needs none.

examples:
  mgsrl train                                   the bundled model on the CPU, minutes
  mgsrl train strategy=mixed seed=1             a baseline, another seed
  mgsrl train train.num_steps=5 run.dir=/tmp/r  a short run in a folder of your choice
  mgsrl train +experiment=qwen_mgs              a whole experiment by name
  mgsrl train --config mine.yaml                an experiment of your own (docs/own_domain.md)
  mgsrl train +experiment=qwen_mgs policy.path=/models/Qwen2.5-7B cluster.address=auto
  mgsrl train rollout.assignment=dedicated domains.math.num_workers=2
  mgsrl train resume=never                      start anew; an old run folder is set aside
  mgsrl train algo.clip_low=0.1 'resume.allow=[algo.clip_low]'
                                                go on as another experiment (docs/resume.md)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG + _choices_text()
    add_overrides(parser, "Hydra overrides")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )


def run(options: argparse.Namespace) -> None:
    if options.print_config:
        from mgsrl.config.compose import config_to_yaml

        print(config_to_yaml(composed(options)))
        return
    from mgsrl.api import train

    train(options.overrides, options.config, options.config_dir)


def _choices_text() -> str:
    from mgsrl.config.compose import list_choices

    lines = []
    titles = {"experiment": "experiments", "strategy": "strategies", "domains": "domain sets"}
    for group, title in titles.items():
        lines.append(f"\n{title} ({group}=NAME):")
        lines += [f"  {name:<22} {comment}" for name, comment in list_choices(group).items()]
    return "\n".join(lines)
