"""`mgsrl plan`: who runs where, what it takes of machines, how long. Starts and loads nothing."""

import argparse
import json
from typing import TYPE_CHECKING

from mgsrl.commands.options import add_overrides, composed
from mgsrl.errors import ConfigError

if TYPE_CHECKING:
    from mgsrl.cluster.hardware import Hardware
    from mgsrl.config import Config

HELP = "say who would run where, what it takes and how long; starts nothing"
EPILOG = """\
examples:
  mgsrl plan                                        the default run on this machine
  mgsrl plan +experiment=qwen_mgs                   on as many H100s as it asks for
  mgsrl plan +experiment=qwen_mgs --gpu L40S-48GB   on others
  mgsrl plan +experiment=qwen_mgs --nodes 2 --gpus-per-node 8 --gpu A100-80GB learner.world_size=8
  mgsrl plan +experiment=qwen_mgs --response-tokens 900 --json

Only the configuration and the policy's config.json are read; for the hub ids that the recipes name
no network is needed (SmolLM2 is a folder: `mgsrl data prepare smollm2` first). Memory and seconds
are arithmetic (docs/troubleshooting.md, "Sizing"). Exit code 2 when the run does not fit, with a
change that makes it fit.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add_overrides(parser, "Hydra overrides")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    machines = parser.add_argument_group(
        "machines that are not there",
        "without these: the GPUs of this machine, or else as many H100s as the run asks for",
    )
    machines.add_argument("--nodes", type=int, metavar="N", help="how many (default: 1)")
    machines.add_argument(
        "--gpus-per-node", type=int, metavar="N", help="GPUs of each (default: 8)"
    )
    machines.add_argument(
        "--gpu", metavar="NAME", help="the card, such as H100-80GB (the default), A100-80GB"
    )
    machines.add_argument(
        "--gpu-gib",
        type=float,
        metavar="N",
        help="memory of one GPU in GiB (default: the card's)",
    )
    lengths = parser.add_argument_group("lengths that are expected")
    for what in ("prompt", "response"):
        lengths.add_argument(
            f"--{what}-tokens",
            type=int,
            metavar="N",
            help=f"mean tokens of a {what} (default: half of the limit)",
        )


def run(options: argparse.Namespace) -> None:
    _check(options)
    config = composed(options)  # mistakes in it before torch is imported
    _check_lengths(options, config)
    if config.learner.device == "auto" and (options.gpu or options.gpu_gib):
        config.learner.device = "cuda"
    from mgsrl.training.forecast import Lengths
    from mgsrl.training.planned import plan_run

    hardware = _hardware(options, config)
    lengths = Lengths(options.prompt_tokens, options.response_tokens)
    found = plan_run(config, hardware, lengths)
    if options.json:
        print(json.dumps(found.record(), indent=2))
    else:
        from mgsrl.commands.plan_tables import show

        show(found)
        asked = (options.gpu, options.gpu_gib, options.nodes, options.gpus_per_node)
        if found.memory.device == "cpu" and any(asked):
            print("the GPUs that were asked about are not used: learner.device=cpu")
    if found.verdict.problems:
        raise found.misfit()


def _check(options: argparse.Namespace) -> None:
    for name in ("nodes", "gpus_per_node", "gpu_gib", "prompt_tokens", "response_tokens"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} cannot be {value:g}.",
                expected="the memory of one GPU in GiB, above 0" if "gib" in flag else "1 or more",
                found=f"{value:g}",
                todo=f"correct it, for example {flag} {79 if 'gib' in flag else 8}",
            )


def _check_lengths(options: argparse.Namespace, config: "Config") -> None:
    for what, key, limit in (
        ("prompt", "data.max_prompt_tokens", config.data.max_prompt_tokens),
        ("response", "rollout.max_new_tokens", max(config.response_limits.values())),
    ):
        mean = getattr(options, f"{what}_tokens")
        if mean is not None and mean > limit:
            raise ConfigError(
                f"--{what}-tokens is above the limit of a {what}.",
                expected=f"{limit:,} at most",
                found=f"{mean:,}",
                todo=f"correct it, or set {key} to what it shall be",
            )


def _hardware(options: argparse.Namespace, config: "Config") -> "Hardware":
    """Machines of the command line, else this one's GPUs, else as many of 80 GB as are wanted."""
    from mgsrl.cluster.hardware import USUAL, Hardware, gpu_named, gpu_of_card
    from mgsrl.cluster.preflight import gpu_memories, usable_cores

    counted = options.nodes is not None or options.gpus_per_node is not None
    here = [] if options.gpu or counted else gpu_memories()
    gpu = gpu_named(options.gpu or USUAL)
    gib, per_node = gpu.gib, options.gpus_per_node or 8
    nodes = (options.nodes or 1) if counted else 0
    if here:
        card, gib = min(here, key=lambda each: each[1])
        gpu_here = gpu_of_card(card, gib)
        local = config.cluster.address == "local" and options.gpu_gib is None
        if local:
            return Hardware(1, len(here), gpu_here, gib, given=True, cores=usable_cores())
        return Hardware(0, per_node, gpu_here, options.gpu_gib or gib, given=False)
    return Hardware(nodes, per_node, gpu, options.gpu_gib or gib, given=counted)
