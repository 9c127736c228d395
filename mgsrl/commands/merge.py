"""`mgsrl merge`: several runs' models as one."""

import argparse
import shlex

from mgsrl.commands import eval as eval_command
from mgsrl.config.merging import METHODS, merge_settings
from mgsrl.obs.outputs import FORCE_HELP

HELP = "merge the models of several runs into one, without training"
EPILOG = """\
RUN is a run folder (its newest checkpoint), a checkpoint, or a plain model folder. All of them were
trained from one base, on a domain each: that of the runs is found, that of plain folders is named
by --base. OUT becomes a plain model folder like that of `mgsrl export`, with a merge.json that says
what is in it.

A task vector is what training changed, model minus base. The methods:
  linear           weighted mean of the models (Model Soups); needs no base
  task_arithmetic  base + sum of weight * task vector; a weight below 0 forgets
  ties             as a mean of what is large (--density, 0.2) and has the sign that most have
  dare             task vectors thinned at random (--density, 0.1; --seed) and rescaled, then added
  ram              made for RL: what one model alone changed in full, what several changed as a mean
                   (--threshold, 1e-5: smaller differences are none)

Without --weights each model has 1: the mean for linear, the plain sum for task_arithmetic and dare.
With weights of 1/N that sum is a mean. docs/merge.md says more.

examples:
  mgsrl merge runs/math runs/chat merged/mean --method linear
  mgsrl merge runs/math runs/chat merged/ties --method ties --density 0.3 --tasks gsm8k
  mgsrl merge runs/math runs/chat merged/sum --method task_arithmetic --weights 0.7 0.3
  mgsrl merge DIR_A DIR_B merged/ram --method ram --base Qwen/Qwen2.5-7B
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("models", nargs="+", metavar="RUN", help="what is merged")
    parser.add_argument("output", metavar="OUT", help="folder for the merged model")
    parser.add_argument("--method", required=True, choices=[*METHODS], help="see below")
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="one for each RUN (default: 1 each)"
    )
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="what the models were trained from: folder, hub id, pocket, run folder, checkpoint "
        "(default: what the runs began with)",
    )
    parser.add_argument(
        "--density", type=float, metavar="X", help="share of changes that ties and dare keep"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="of dare (default 0)")
    parser.add_argument(
        "--threshold", type=float, metavar="X", help="largest difference that is none to ram"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the merged weights (default: the base's; without a base the first model's)",
    )
    parser.add_argument(
        "--tasks",
        metavar="NAME[=DATA],...",
        help="score the merged model at once, as `mgsrl eval --tasks` does",
    )
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)


def run(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in ("density", "threshold", "seed")}
    # Before the import below: a mistake must not wait for it.
    merge_settings(options.method, len(options.models), options.weights, **given)
    if options.tasks:
        from mgsrl.evaluate.tasks import parse_tasks

        parse_tasks(options.tasks)
    from mgsrl.training.merge import merge_models

    merged = merge_models(
        options.models,
        options.output,
        method=options.method,
        weights=options.weights,
        base=options.base,
        dtype=options.dtype,
        force=options.force,
        **given,
    )
    for note in merged.notes:
        print(note)
    print(merged.folder)
    words = [*merged.eval_arguments, "--tasks", options.tasks or "NAME,..."]
    if not options.tasks:
        print(f"to score it: {shlex.join(['mgsrl', 'eval', *words])}")
        return
    scoring = argparse.ArgumentParser()
    eval_command.add_arguments(scoring)
    eval_command.run(scoring.parse_args(words))
