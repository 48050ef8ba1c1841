"""What the command line says, and what ``--help`` does."""

import argparse
from pathlib import Path

import trio_raft

from .keys import KEYS
from .script import LANGUAGE, ScriptError, parse

SECONDS, RATE = 1800.0, 200.0
"""How long the steady load lasts, and its writes per second, unless the command line says otherwise."""

EPILOG = f"""\
script: verbs separated by semicolons, for example "write 500; kill leader; write 500; restart; verify"

{LANGUAGE}

keys of the live view: {", ".join(f"{key} {meaning}" for key, meaning in KEYS.items())}

json, on the last line: acknowledged, unknown and refused writes; lost (acknowledged but absent), phantom
(present but never attempted, or refused, or applied twice), identical (all compared replicas); compared and
not_compared nodes; snapshots_taken and snapshots_installed, over all nodes and all their processes (what one did
in the last moments before it was killed may be missing), and first_index, at which the log of each compared node
begins; failover_ms, one for each kill or pause of a leader, until the next acknowledged write (null if there
was none); writes_per_second (while there was something to write), p50_ms, p99_ms, elapsed_s, crashed, error,
events. While no majority runs, no time counts for failover_ms.

data: the temporary directory, named trio_raft-…, goes away at the end. Only if this program itself dies of
SIGKILL does it stay, below the directory for temporary files; no node outlives it even then.

exit status: 0    nothing lost, no phantom, all compared replicas identical
             1    they are not, or a node ended by itself
             2    the arguments or the script are wrong
             3    something did not happen within --patience, or a node did not start
             130  interrupted
"""


def read_arguments(description: str) -> argparse.Namespace:
    """What the command line says; a wrong word ends with exit status 2 and a message that names it."""
    parser = argparse.ArgumentParser(
        description=description, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    add_node_options(parser)
    arguments = parser.parse_args()
    if not 1 <= arguments.nodes <= 9:
        parser.error(f"argument --nodes: must be from 1 to 9, not {arguments.nodes}")
    if not 1 <= arguments.writers <= 1024:
        parser.error(f"argument --writers: must be from 1 to 1024, not {arguments.writers}")
    if arguments.script is not None:
        if arguments.seconds is not None:
            parser.error("argument --seconds: not with --script, which ends with its last verb; see sleep S")
        if arguments.rate is not None:
            parser.error("argument --rate: not with --script, which writes as fast as it can; see --writers")
        try:
            names = [f"n{number}" for number in range(1, arguments.nodes + 1)]
            arguments.script = parse(arguments.script, names=names)
        except ScriptError as error:
            parser.error(f"argument --script: {error}")
    arguments.seconds = SECONDS if arguments.seconds is None else arguments.seconds
    arguments.rate = RATE if arguments.rate is None else arguments.rate
    if arguments.directory is not None:
        try:
            prepare_directory(arguments.directory)
        except OSError as error:
            parser.error(f"argument --directory: {error}")
    return arguments


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the program itself obeys."""
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="how many, 1 to 9 (default: 3)")
    parser.add_argument("--script", metavar="'...'", help="carry out these verbs and end; see below")
    parser.add_argument("--json", action="store_true", help="plain lines, and the last is one JSON object")
    parser.add_argument(
        "--directory", type=Path, help="keep logs and data in this new directory (default: a temporary one)"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help=f"without --script: end after so long (default: {SECONDS:g}, since every key is kept to be checked)",
    )
    parser.add_argument(
        "--rate", type=positive, metavar="R", help=f"without --script: writes per second (default: {RATE:g})"
    )
    parser.add_argument("--writers", type=int, default=16, metavar="N", help="writes at a time (default: 16)")
    parser.add_argument(
        "--patience", type=positive, default=30.0, metavar="S", help="give up after so long (default: 30)"
    )


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """What every node is started with."""
    defaults = trio_raft.Snapshots()
    parser.add_argument(
        "--heartbeat-timeout",
        type=positive,
        default=1.0,
        metavar="S",
        help="a follower that hears nothing for so long seeks a new leader (default: 1.0, the library's)",
    )
    parser.add_argument(
        "--snapshot-threshold",
        type=whole,
        default=defaults.threshold_entries,
        metavar="N",
        help="a node takes a snapshot after so many entries; 0: not because of their number (default: %(default)s)",
    )
    parser.add_argument(
        "--trailing",
        type=whole,
        default=defaults.trailing_entries,
        metavar="N",
        help="entries that the log keeps behind its newest snapshot (default: %(default)s)",
    )


def prepare_directory(directory: Path) -> None:
    """Make the directory. Raises OSError, also if it holds anything: an earlier run's keys are phantoms."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise OSError(f"{directory} is not empty; name a new directory")


def positive(word: str) -> float:
    """An argument that must be a positive, finite number."""
    number = float(word)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {word}")
    return number


def whole(word: str) -> int:
    """An argument that must be a whole number, 0 or more."""
    if not (word.isascii() and word.isdigit()):
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, not {word}")
    return int(word)
