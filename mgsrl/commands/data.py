"""`mgsrl data`: looking at prompts, making them and fetching the published sets."""

import argparse
import os
from typing import TYPE_CHECKING

from mgsrl.commands.options import add_overrides, column, composed
from mgsrl.config.data import TASK_SPLITS
from mgsrl.data.smollm2 import DTYPES, FOLDER, MARKER, NAME, is_in_place, prepare_smollm2
from mgsrl.errors import ConfigError
from mgsrl.obs.outputs import FORCE_HELP, output_file, output_folder, shared_folder
from mgsrl.obs.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mgsrl.config import DomainConfig
    from mgsrl.data.contamination import EvaluationIndex

HELP = "prompts: look at them, make them, fetch the published ones"

INSPECT_HELP = "look at the prompts of every domain: rows, lengths, duplicates, problems"
INSPECT_EPILOG = """\
Bad rows are listed by number, not stopped at. Lengths are in tokens of policy.path, template
included. Text in common with evaluation prompts: 13 words in a row, or a whole short prompt.

examples:
  mgsrl data inspect                            the domains of the default configuration
  mgsrl data inspect domains=local_text         another set of domains
  mgsrl data inspect +experiment=qwen_mgs       those of an experiment
  mgsrl data inspect domains=local_text --against heldout,gsm8k_test.jsonl
"""
SYNTHESIZE_HELP = "make training prompts: plain requests with random constraints added"
SYNTHESIZE_EPILOG = """\
Every row holds constraints that one response can follow together. IFBench's constraints are for
evaluation and are left out unless --families names them.

examples:
  mgsrl data synthesize instruction_following --output if.jsonl --num-rows 1000
  mgsrl data synthesize instruction_following --output if.jsonl --num-rows 5000 \\
      --prompts chats.parquet --columns prompt=question --constraints-per-prompt 2-4
  mgsrl data synthesize instruction_following --output easy.jsonl --num-rows 50 \\
      --only punctuation:no_comma keywords:existence --constraints-per-prompt 1
  mgsrl data inspect domains.instruction_following.source.kind=file \\
      domains.instruction_following.source.path=if.jsonl
"""
PREPARE_HELP = "fetch a published data set or a small model, or convert a file of it"
PREPARE_EPILOG = """\
Writes DIR/NAME.jsonl, rows that train at once, and DIR/NAME.provenance.json. `domains=prepared`
trains on simplerl, wildchat_if and nemotron_if from $MGSRL_DATA (default ./data).

examples:
  mgsrl data prepare --list                     names, rows, licences, hub ids
  mgsrl data prepare gsm8k                      from the hub to data/gsm8k.jsonl
  mgsrl data prepare gsm8k --split test --output data/eval
  mgsrl data prepare wildchat_if --from wildchat-if_train.parquet --output /data
  mgsrl data prepare smollm2                    SmolLM2-135M-Instruct into ./models, where
                                                +experiment=smollm2_mgs reads it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    inspect = _action(actions, "inspect", INSPECT_HELP, INSPECT_EPILOG)
    _add_inspect_arguments(inspect)
    synthesize = _action(actions, "synthesize", SYNTHESIZE_HELP, SYNTHESIZE_EPILOG)
    _add_synthesize_arguments(synthesize)
    prepare = _action(actions, "prepare", PREPARE_HELP, PREPARE_EPILOG)
    _add_prepare_arguments(prepare)


def run(options: argparse.Namespace) -> None:
    _RUN[options.action](options)


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help_: str,
    epilog: str,
) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=help_,
        description=help_[0].upper() + help_[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


# --- inspect --------------------------------------------------------------------------------------


def _add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser, "e.g. domains=local_text")
    parser.add_argument(
        "--against",
        default="",
        metavar="FILE[:COLUMN][,...]",
        help="evaluation prompts that no training row should hold; `heldout` names the "
        "configuration's own",
    )
    parser.add_argument(
        "--examples", type=int, default=1, metavar="N", help="rows shown (default: 1)"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=5,
        metavar="N",
        help="bad, duplicate and shared rows named of each kind (default: 5)",
    )
    parser.add_argument(
        "--no-lengths", action="store_true", help="do without the policy's tokenizer"
    )


def _run_inspect(options: argparse.Namespace) -> None:
    from mgsrl.config.places import check_places

    config = composed(options)
    check_places(config, models=False)  # before the seconds that the imports below take
    from mgsrl.data.inspect import inspect_source
    from mgsrl.data.templates import PromptTokenizer
    from mgsrl.errors import DataError
    from mgsrl.learner.policy import load_tokenizer
    from mgsrl.rewards.factory import row_needs

    without = []
    against = _evaluation_prompts(options.against, config.domains)
    templates = None
    if not options.no_lengths:
        templates = PromptTokenizer(config.policy, load_tokenizer(config.policy), config.data)
    for name, domain in config.domains.items():
        sources = {f"domains.{name}.source": domain.source}
        for extra, source in domain.extra_sources.items():
            sources[f"domains.{name}.extra_sources.{extra}"] = source
        prompts = templates and templates.for_domain(name, domain.chat_template_kwargs)
        for key, source in sources.items():
            report = inspect_source(
                source,
                name,
                key=key,
                needs=row_needs(domain.reward, f"domains.{name}.reward"),
                prompts=prompts,
                max_prompt_tokens=config.data.max_prompt_tokens,
                overlong=config.data.overlong,
                against=against,
                num_examples=options.examples,
            )
            print("\n".join([key, *report.lines(options.rows)]))
            if not report.num_usable:
                without.append(f"{key} (none of {report.num_rows})")
    if without:
        raise DataError(
            "A run could not start with these data.",
            expected="a usable row in every source",
            found=", ".join(without),
            todo="mend the rows or the keys of the source, as the lines above say",
        )


def _evaluation_prompts(
    names: str, domains: "Mapping[str, DomainConfig]"
) -> "EvaluationIndex | None":
    """What `--against` names; None for nothing."""
    from pathlib import Path

    from mgsrl.data.contamination import EvaluationIndex, conversation_text
    from mgsrl.data.sources import Reading, load_rows

    if not names:
        return None
    index = EvaluationIndex()
    for name in names.split(","):
        if name != "heldout":
            path, _, column = (name, "", "") if Path(name).exists() else name.partition(":")
            index.add_file(Path(os.path.expanduser(path)), column)
            continue
        for domain, config in domains.items():
            if config.heldout is not None:
                key = f"domains.{domain}.heldout"
                suffix = Reading(config.heldout, domain, key=key).source.prompt_suffix
                for row in load_rows(config.heldout, domain, key=key):
                    text = conversation_text(row.messages)
                    index.add(f"{key}, {row.id}", text.removesuffix(suffix))
    return index


# --- synthesize -----------------------------------------------------------------------------------


def _add_synthesize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domain", choices=["instruction_following"], help="what to make")
    parser.add_argument("--output", required=True, metavar="OUT.jsonl", help="file to write")
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)
    parser.add_argument("--num-rows", required=True, type=_positive, metavar="N")
    parser.add_argument(
        "--prompts",
        metavar="FILE|hub:NAME",
        help="plain requests: .jsonl, .json, .parquet, .csv or a hub data set (default: built-in)",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        type=column,
        metavar="OURS=THEIRS",
        help="columns of --prompts, as prompt=question (ours: prompt, messages, id)",
    )
    parser.add_argument(
        "--constraints-per-prompt",
        type=_counts,
        metavar="N[-M]",
        help="how many, or from how many to how many (default: 1-3; 1 for ifbench alone, of whose "
        "constraints none are known to go together)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same rows (default: 0)")
    parser.add_argument(
        "--families",
        nargs="+",
        metavar="NAME",
        help="collections to draw from: ifeval ifevalg ifbench (default: ifeval ifevalg)",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ID", help="draw these constraints alone"
    )


def _run_synthesize(options: argparse.Namespace) -> None:
    from mgsrl.constraints.sample import DEFAULT_FAMILIES, draw_constraints, select_ids
    from mgsrl.data.synthesize import check_suffix, plain_prompts, synthesize, write_rows

    inputs = [options.prompts] if options.prompts else []
    output = output_file(options.output, "--output", inputs=inputs, force=options.force)
    check_suffix(output)
    families = options.families or DEFAULT_FAMILIES
    ids = select_ids(families, options.only)
    prompts = plain_prompts(options.prompts, dict(options.columns))
    alone = set(families) == {"ifbench"}
    low, high = options.constraints_per_prompt or ((1, 1) if alone else (1, 3))
    rows = synthesize(
        prompts,
        lambda rng, request, count: draw_constraints(rng, request, count, ids),
        num_rows=options.num_rows,
        low=low,
        high=high,
        seed=options.seed,
    )
    number = write_rows(output, progress(rows, "drawing", options.num_rows))
    print(f"{output}: {number} rows from {len(prompts)} prompts and {len(ids)} constraints")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a number of at least 1, found {text!r}")
    return int(text)


def _counts(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    low, high = _positive(first), _positive(last if dash else first)
    if low > high:
        raise argparse.ArgumentTypeError(f"should be N or N-M with N <= M, found {text!r}")
    return low, high


# --- prepare --------------------------------------------------------------------------------------


def _add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", metavar="NAME", help="a name of --list")
    what.add_argument("--list", action="store_true", help="show the data sets and stop")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder (default: data; for smollm2 models/SmolLM2-135M-Instruct)",
    )
    parser.add_argument(
        "--from", dest="file", metavar="FILE", help="convert this local copy; no network"
    )
    parser.add_argument(
        "--split",
        choices=TASK_SPLITS,
        help="rows to train on or to evaluate with (default: the former, where there are any)",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of smollm2's weights (default: float32)")
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)


def _run_prepare(options: argparse.Namespace) -> None:
    from pathlib import Path

    from mgsrl.config.task import find_task
    from mgsrl.data.prepare import listing, part_of, prepare
    from mgsrl.evaluate.tasks import task_needs

    if options.list:
        print("\n".join(listing()))
        return
    if options.name == NAME:
        _prepare_smollm2(options)
        return
    if options.dtype:
        raise ConfigError(
            f"--dtype is for {NAME} alone.",
            expected="no --dtype for a data set",
            found=f"--dtype {options.dtype}",
            todo="leave it out",
        )
    task = find_task(options.name, "NAME")
    part = part_of(task, options.split)
    prepared = prepare(
        task,
        shared_folder(options.output or "data", "--output"),
        split=options.split,
        file=Path(os.path.expanduser(options.file)) if options.file else None,
        force=options.force,
        needs=task_needs(task),
        progress=lambda rows: progress(
            rows, task.name, None if options.file or part is None else part.rows
        ),
    )
    licence = f" ({task.licence})" if task.licence else ""
    print(f"{prepared.path}: {prepared.rows} rows{licence}")
    for expected, number in prepared.left_out.most_common():
        print(f"  left out {number} rows: expected {expected}")
        print(f"    first: {prepared.examples[expected]}")


def _prepare_smollm2(options: argparse.Namespace) -> None:
    from pathlib import Path

    if options.split:
        raise ConfigError(
            f"--split is for data sets, and {NAME} is a model.",
            expected=f"no --split for {NAME}",
            found=f"--split {options.split}",
            todo="leave it out",
        )
    folder = shared_folder(options.output or FOLDER, "--output")
    dtype = options.dtype or DTYPES[0]
    wheel = Path(os.path.expanduser(options.file)) if options.file else None
    if not is_in_place(folder, dtype):
        output_folder(
            folder,
            "--output",
            inputs=[wheel] if wheel else [],
            force=options.force,
            is_ours=lambda there: (there / MARKER).is_file(),
            kind="a SmolLM2 of another type",
        )
    made = prepare_smollm2(folder, dtype, wheel=wheel, say=lambda text: print(text, flush=True))
    print(f"{folder}: {'written' if made else 'in place already'} ({dtype})")


_RUN = {"inspect": _run_inspect, "synthesize": _run_synthesize, "prepare": _run_prepare}
