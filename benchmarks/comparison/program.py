"""What the programs share: options, a temporary directory, and an end by Ctrl-C that leaves nothing behind."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio

from .children import BenchmarkFailed, progress

GOOD, BAD, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
SMALLEST_COMMAND, LARGEST_COMMAND = 8, 1 << 20


async def work_until_signal(work: Callable[[Path], Awaitable[None]], *, prefix: str, inside: Path | None) -> int:
    """Do the work in a temporary directory, which is gone afterwards; returns the exit status."""
    status = INTERRUPTED
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=inside) as directory:
                try:
                    await work(Path(directory))
                    status = GOOD
                except BenchmarkFailed as failure:
                    progress(f"{Path(sys.argv[0]).name}: {failure}")
                    status = BAD
            nursery.cancel_scope.cancel()
    return status


async def cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Cancel at the first Ctrl-C, SIGTERM or SIGHUP."""
    async for _ in signals:
        scope.cancel()


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The size of a command, and the disk."""
    parser.add_argument(
        "--command-bytes",
        type=command_bytes,
        default=100,
        metavar="B",
        help=f"{SMALLEST_COMMAND} to {LARGEST_COMMAND} (default: 100)",
    )
    parser.add_argument(
        "--directory",
        type=writable_directory,
        help="measure the disk that holds this directory (default: the one for temporary files)",
    )


def counts(words: str) -> list[int]:
    """An argument that is a list of positive numbers."""
    numbers = [int(word) for word in words.split(",")]
    if not all(1 <= number <= 100_000 for number in numbers):
        raise argparse.ArgumentTypeError(f"must be numbers from 1 to 100000, not {words}")
    return numbers


def count(word: str) -> int:
    """An argument that is one positive number."""
    [number] = counts(word)
    return number


def positive(word: str) -> float:
    """An argument that must be a positive, finite number."""
    number = float(word)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {word}")
    return number


def command_bytes(word: str) -> int:
    """An argument that is the size of a command."""
    number = int(word)
    if not SMALLEST_COMMAND <= number <= LARGEST_COMMAND:
        raise argparse.ArgumentTypeError(f"must be from {SMALLEST_COMMAND} to {LARGEST_COMMAND}, not {word}")
    return number


def writable_directory(word: str) -> Path:
    """An argument that is a directory to write in."""
    if not os.access(word, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{word} is no directory that can be written")
    return Path(word)
