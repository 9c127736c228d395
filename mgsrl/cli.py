"""The `mgsrl` command. Exit codes: 0 done, 2 the user's mistake (one message), 1 anything else.

The commands are in `mgsrl/commands/`, one file each.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from mgsrl import __version__
from mgsrl.cluster.again import remember_start
from mgsrl.cluster.signals import on_signal, stopped_by
from mgsrl.commands import compare, data, doctor, eval, export, merge, plan, report, score, train
from mgsrl.errors import MgsrlError, UserError, disk_problem, explain, nearest
from mgsrl.obs.terminal import quiet_libraries, reader_is_gone

COMMANDS = {
    "train": train,
    "plan": plan,
    "report": report,
    "compare": compare,
    "score": score,
    "eval": eval,
    "data": data,
    "export": export,
    "merge": merge,
    "doctor": doctor,
}
"""In the order of `--help`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if argv is None:
        remember_start()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what a word could be
        import argcomplete

        argcomplete.autocomplete(parser)
    command = next((item for item in arguments if not item.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        print(f"mgsrl: unknown command {command!r}; {nearest(command, COMMANDS)}", file=sys.stderr)
        return 2
    options, unknown = parser.parse_known_args(arguments)
    if isinstance(getattr(options, "overrides", None), list):
        # argparse gives them only those words that stand together, options between them or not.
        options.overrides += [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    if unknown:
        print(f"mgsrl: {_unknown_option(unknown[0], options)}", file=sys.stderr)
        return 2
    if options.command is None:
        parser.print_help()
        return 0
    signal.signal(signal.SIGTERM, on_signal)
    quiet_libraries()
    try:
        COMMANDS[options.command].run(options)
        sys.stdout.flush()  # here and not at the interpreter's end, where it could only complain
        return 0
    except BrokenPipeError:
        if not reader_is_gone():
            raise
        return 1  # whoever stopped reading (`| head`) has what was wanted
    except UserError as error:
        print(f"mgsrl: {error}", file=sys.stderr)
        return 2
    except MgsrlError as error:
        print(f"mgsrl: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except SystemExit as error:  # none of ours: a part that a user brings would end this as done
        raise RuntimeError(f"sys.exit({error.code!r}) was called inside the command") from error
    except KeyboardInterrupt:
        print(f"mgsrl: stopped by {stopped_by()}", file=sys.stderr)
        return 1
    except Exception as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        print(f"mgsrl: a file could not be written or read: {problem}", file=sys.stderr)
        return 1


def _unknown_option(option: str, options: argparse.Namespace) -> str:
    """The message for an option (or a word too many) that the command does not have."""
    action = getattr(options, "action", None)
    command = " ".join(filter(None, ["mgsrl", options.command, action]))
    key, _, value = option.lstrip("-").partition("=")
    keys = isinstance(getattr(options, "overrides", None), list) and option.startswith("-")
    return explain(
        f"`{command}` does not take {option.partition('=')[0]}.",
        expected="keys of the configuration without dashes, as KEY=VALUE"
        if keys
        else f"the options of `{command} --help`",
        found=repr(option),
        todo=f"write {key}={value or 'VALUE'}, or see `{command} --help`"
        if keys
        else f"see `{command} --help`",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mgsrl",
        description="Multi-domain RL post-training with Modular Gradient Surgery.",
        epilog="`mgsrl COMMAND --help` explains a command. Start with `mgsrl train`.",
    )
    parser.add_argument("--version", action="version", version=f"mgsrl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        own = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP[0].upper() + command.HELP[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(own)
    return parser


if __name__ == "__main__":
    sys.exit(main())
