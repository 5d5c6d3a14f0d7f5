"""The console script `samestyle`: everything around releases, encoders and runs that needs neither Spark nor Java."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence

from samestyle import __version__, deny_commands, encoder_commands, release_commands, run_commands, web_commands
from samestyle.console import Call
from samestyle.errors import SamestyleError
from samestyle.settings import ENVIRONMENTS, load_settings

OVERRIDE = re.compile(r"[a-z_]+(\.[A-Za-z0-9_-]+)+=.*", re.DOTALL)


COMMANDS: dict[str, tuple[str, dict[str, tuple[str, Callable[[Call], None]]]]] = {
    "releases": (
        "look at releases, verify and compare them, let a channel name another one",
        {
            "list": ("all releases, and which channel names which", release_commands.list_all),
            "show": ("one release: counts, recall, the gate's findings", release_commands.show),
            "verify": ("compare every byte with the manifest; exit code 1 if one differs", release_commands.verify),
            "diff": ("what a release changes against another one", release_commands.diff),
            "promote": ("let release.channel's readers have what another channel names", release_commands.promote_one),
            "rollback": (
                "let the channel name the release before, or the one that you name",
                release_commands.roll_back,
            ),
            "history": ("when the channel moved, and by what: publish, promote, rollback", release_commands.history),
            "gc": ("remove releases beyond release.keep, and objects that none needs", release_commands.collect),
            "export": ("write a release to a folder that needs no store", release_commands.export),
        },
    ),
    "deny": (
        "hide items from all readers at once, whatever the releases say",
        {
            "list": ("the items that are hidden", deny_commands.list_all),
            "add": ("hide these items from the readers' next refresh on", deny_commands.add),
            "remove": ("hide these items no longer", deny_commands.remove),
            "purge": ("have the next night's release hold no vector of them either", deny_commands.purge_all),
        },
    ),
    "encoders": (
        "look at encoders, compare two, choose the one that the next run uses",
        {
            "list": ("all encoders, and which is current", encoder_commands.list_all),
            "show": ("one encoder: its files, training, evaluations and card", encoder_commands.show),
            "compare": ("two encoders side by side, by their recorded evaluations", encoder_commands.compare),
            "promote": ("let the next run use it, once `backfill` has embedded what serves", encoder_commands.promote),
            "register": ("put an exported encoder's folder into the store", encoder_commands.register),
        },
    ),
    "runs": (
        "look at the runs of the nightly job",
        {
            "list": ("all runs with their outcome", run_commands.list_all),
            "show": ("one run: outcome, counts, recall, time; the latest by default", run_commands.show),
        },
    ),
}


def make_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--env", choices=ENVIRONMENTS, help="which conf/<env>.yaml (default: SAMESTYLE_ENV, or demo)")
    common.add_argument("--settings", metavar="FILE", help="a further settings file")
    common.add_argument("--channel", help="the channel (default: release.channel)")
    parser = argparse.ArgumentParser(
        "samestyle",
        description=__doc__,
        parents=[common],
        epilog="Any setting can be given as a.b=value. After `--` every word is taken as it is.",
    )
    parser.add_argument("--version", action="version", version=f"samestyle {__version__}")
    groups = parser.add_subparsers(metavar="WHAT", required=True)
    for group, (about, commands) in COMMANDS.items():
        actions = groups.add_parser(group, help=about, description=about)
        names = actions.add_subparsers(metavar="ACTION", required=True)
        for name, (text, function) in commands.items():
            command = names.add_parser(name, help=text, description=text, parents=[common])
            command.set_defaults(function=function)
            add_own_arguments(command, group, name)
    about = "show the release that the channel names as a web application"
    command = groups.add_parser("serve", help=about, description=about, parents=[common])
    command.set_defaults(function=web_commands.serve)
    web_commands.add_arguments(command)
    return parser


def add_own_arguments(command: argparse.ArgumentParser, group: str, name: str) -> None:
    own = {"encoders": encoder_commands, "releases": release_commands, "deny": deny_commands, "runs": run_commands}
    own[group].add_arguments(command, name)


def call_from(argv: Sequence[str]) -> Call:
    """Read the command line. Raises UsageError, or SystemExit as argparse does."""
    end = argv.index("--") if "--" in argv else len(argv)
    words, literal = argv[:end], argv[end:]  # an item's id may look like a setting
    overrides = [word for word in words if OVERRIDE.fullmatch(word)]
    arguments = make_parser().parse_args([*(word for word in words if not OVERRIDE.fullmatch(word)), *literal])
    for name in ("env", "settings", "channel"):
        setattr(arguments, name, getattr(arguments, name, None))
    return Call(arguments, load_settings(arguments.env, arguments.settings, overrides))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        call = call_from(sys.argv[1:] if argv is None else argv)
        call.arguments.function(call)
    except SamestyleError as error:
        print(f"samestyle: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
