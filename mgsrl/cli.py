"""The `mgsrl` command. Exit codes: 0 done, 2 the user's mistake (one message), 1 anything else.

The commands are in `mgsrl/commands/`, one file each.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from mgsrl import __version__
from mgsrl.cluster.session import on_sigterm, stopped_by
from mgsrl.commands import compare, data, doctor, eval, export, report, score, train
from mgsrl.errors import MgsrlError, UserError, disk_problem, nearest
from mgsrl.obs.terminal import quiet_libraries

COMMANDS = {
    "train": train,
    "report": report,
    "compare": compare,
    "score": score,
    "eval": eval,
    "data": data,
    "export": export,
    "doctor": doctor,
}
"""In the order of `--help`."""


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
    quiet_libraries()
    try:
        COMMANDS[options.command].run(options)
        return 0
    except UserError as error:
        print(f"mgsrl: {error}", file=sys.stderr)
        return 2
    except MgsrlError as error:
        print(f"mgsrl: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mgsrl: stopped by {stopped_by()}", file=sys.stderr)
        return 1
    except Exception as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        print(f"mgsrl: a file could not be written or read: {problem}", file=sys.stderr)
        return 1


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
