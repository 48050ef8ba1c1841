"""What the commands say: results on standard output, progress and errors on standard error.

House rule: progress is for a terminal alone; nothing of it is left when the work is done.
"""

import json
import sys
from collections.abc import Mapping
from typing import TextIO

from trio_raft._tools.plain import plain

BAR_WIDTH = 24


def say(line: str, *, stream: TextIO | None = None) -> None:
    """One line, on standard output unless another stream is named."""
    out = sys.stdout if stream is None else stream
    out.write(line + "\n")
    out.flush()


class Bar:
    """A progress bar on standard error, if that is a terminal.  Call it as a ``Progress``."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def __call__(self, what: str, done: int, whole: int) -> None:
        if not self._terminal:
            return
        share = done / whole if whole else 1.0
        text = f"{what} [{'#' * int(share * BAR_WIDTH):<{BAR_WIDTH}}] {share:4.0%}"
        if text != self._shown:
            self._show(text)

    def clear(self) -> None:
        """Leave no trace of it."""
        if self._shown:
            self._show("")

    def _show(self, text: str) -> None:
        sys.stderr.write(f"\r{text:<{len(self._shown)}}" + ("" if text else "\r"))
        sys.stderr.flush()
        self._shown = text


def say_json(value: Mapping[str, object]) -> None:
    """One JSON object on standard output."""
    say(json.dumps(plain(value), indent=2))
