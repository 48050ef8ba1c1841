"""``python -m trio_raft``: look into a data directory, and recover what survived of a cluster.

    log inspect|verify DIR                      the log: files, terms, vote, members, damage
    snapshot inspect|verify DIR_OR_FILE         its snapshots
    snapshot save DIR FILE                      the newest one, as a file to keep elsewhere
    snapshot restore FILE --to NEWDIR …         a new cluster of one node from such a file
    recover DIR… [--to NEWDIR …]                the best survivor, and a new cluster of one node from it

House rule: standard output has the result, standard error the progress and the errors, one line each.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from trio_raft._errors import ConfigurationError, RaftError
from trio_raft._tools import commands
from trio_raft._tools.console import say, say_json
from trio_raft._tools.directories import absolute
from trio_raft._tools.plain import error_line
from trio_raft._tools.rebuild import LOSS

EXIT_STATUSES = (
    "Exit status: 0 all is well; 1 something is damaged, in use, or refused; 2 the command makes no sense, or names "
    "what is not there, or a directory that is no node's; 130 interrupted."
)

Command = Callable[[argparse.Namespace], int]


class Verbs(Protocol):
    """What ``add_subparsers`` returns; argparse has no public name for it."""

    def add_parser(
        self,
        name: str,
        *,
        help: str = ...,  # noqa: A002
        description: str = ...,
        epilog: str = ...,
    ) -> argparse.ArgumentParser: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except RaftError as error:
        if options.json:
            say_json({"ok": False, "error": error})
        say(f"error: {error_line(error)}", stream=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
    except KeyboardInterrupt:
        say("interrupted", stream=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_raft",
        description="Look into a data directory, and recover what survived of a cluster.",
        epilog=EXIT_STATUSES,
    )
    groups = parser.add_subparsers(required=True, metavar="command")
    _add_log(groups)
    _add_snapshot(groups)
    _add_recover(groups)
    return parser


def _add_log(groups: Verbs) -> None:
    log = groups.add_parser("log", help="look into the log of a node that is stopped", epilog=EXIT_STATUSES)
    verbs = log.add_subparsers(required=True, metavar="verb")
    for verb, verify, text in (
        ("inspect", False, "What the log amounts to, and what its files hold."),
        ("verify", True, "What the log amounts to, with every record and every snapshot checked."),
    ):
        parser = _add(
            verbs,
            verb,
            text,
            "Reads only. A directory that a node has open is refused, and no node can start on it meanwhile.",
        )
        parser.set_defaults(command=commands.log, verify=verify)
        parser.add_argument("directory", type=_path, metavar="DIR", help="the node's data directory")
        parser.add_argument("--entries", type=_entries, metavar="A:B", help="list entries A to B too, both included")


def _add_snapshot(groups: Verbs) -> None:
    snapshot = groups.add_parser("snapshot", help="look into snapshots, save and restore them", epilog=EXIT_STATUSES)
    verbs = snapshot.add_subparsers(required=True, metavar="verb")
    for verb, verify, text in (
        ("inspect", False, "What snapshots say of themselves."),
        ("verify", True, "What snapshots say of themselves, with all of each file read and checked."),
    ):
        parser = _add(verbs, verb, text, "Reads only, also in a directory that a node has open, which it then says.")
        parser.set_defaults(command=commands.snapshot, verify=verify)
        parser.add_argument("path", type=_path, metavar="DIR_OR_FILE", help="a data directory, or one snapshot's file")
    save = _add(
        verbs,
        "save",
        "Copy the newest whole snapshot out of a data directory.",
        "The copy is checked and durable before it gets its name. A node may have the directory open meanwhile.",
    )
    save.set_defaults(command=commands.snapshot_save)
    save.add_argument("directory", type=_path, metavar="DIR", help="a data directory")
    save.add_argument("file", type=_path, metavar="FILE", help="where to")
    save.add_argument("--force", action="store_true", help="replace FILE if it exists")
    restore = _add(
        verbs,
        "restore",
        "Make a new cluster of one node from a snapshot's file.",
        "It gets a new cluster id, a new incarnation and a higher term. What came after the snapshot is not in it, and "
        "all members of the old cluster must stay down for ever.",
    )
    restore.set_defaults(command=commands.snapshot_restore)
    restore.add_argument("file", type=_path, metavar="FILE", help="the snapshot")
    _add_target(restore, required=True)


def _add_recover(groups: Verbs) -> None:
    recover = _add(
        groups,
        "recover",
        "Say which of the surviving data directories knows most, and make a new cluster of one node from it.",
        f"Without --to nothing is written. What --accept-data-loss accepts: {LOSS}. Growing again needs changes of "
        "membership, which this version does not have yet. The survivors are read and never changed; a directory that "
        "a node has open is refused.",
    )
    recover.set_defaults(command=commands.recover)
    recover.add_argument("directories", type=_path, nargs="+", metavar="DIR", help="the data directories that survived")
    recover.add_argument("--survivor", type=_path, metavar="DIR", help="recover from this one, not the best one")
    recover.add_argument("--accept-data-loss", action="store_true", help="write, and accept what is said below")
    _add_target(recover, required=False)


def _add_target(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--to", type=_path, metavar="NEWDIR", required=required, help="the directory to make")
    parser.add_argument("--node-id", metavar="ID", required=required, help="of the new node")
    parser.add_argument("--cluster-id", metavar="NEW", required=required, help="of the new cluster, not the old one's")
    parser.add_argument("--address", metavar="HOST:PORT", help="of the new node, for the settings that are shown")


def _add(verbs: Verbs, verb: str, text: str, more: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        verb, help=f"{text[0].lower()}{text[1:-1]}", description=text, epilog=f"{more} {EXIT_STATUSES}"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the text")
    return parser


def _path(text: str) -> Path:
    return absolute(text)


def _entries(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not colon or not all(part.isascii() and part.isdigit() for part in (first, last)) or int(first) < 1:
        raise argparse.ArgumentTypeError(f"entries are A:B, for example 1:20, counted from 1, not {text!r}")
    if int(first) > int(last):
        raise argparse.ArgumentTypeError(f"there is no entry in {text}: B must not be less than A")
    return int(first), int(last)


if __name__ == "__main__":
    # A service manager's stop ends a command as Ctrl-C does: what is half made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Whoever reads the output may have seen enough.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
