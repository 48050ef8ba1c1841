"""What each command of ``python -m trio_raft`` does: call the tools, and say what came of it.

House rule: a command returns the exit status and prints its own result; errors are left to the one place that words
them, ``__main__``.
"""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from trio_raft._errors import ConfigurationError, RecoveryRefused
from trio_raft._records import Entry
from trio_raft._storage.files import OsFiles
from trio_raft._tools.console import Bar, say, say_json
from trio_raft._tools.directories import is_directory, is_there
from trio_raft._tools.log import open_log
from trio_raft._tools.rebuild import LOSS, NOT_IN_SNAPSHOT, Target, recover_to, restore_to
from trio_raft._tools.snapshots import inspect_snapshot, inspect_snapshots, save_newest
from trio_raft._tools.survey import Survey, opened_all, propose
from trio_raft._tools.texts import (
    WHAT_FOLLOWS,
    created_lines,
    entry_line,
    log_lines,
    proposal_lines,
    snapshot_lines,
    snapshots_lines,
    survey_lines,
)

FILES = OsFiles()


@contextmanager
def _bar() -> Iterator[Bar]:
    """Progress while the work lasts; nothing of it is left afterwards."""
    bar = Bar()
    try:
        yield bar
    finally:
        bar.clear()


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


# ------------------------------------------------------------------------------------ log


def log(options: argparse.Namespace) -> int:
    """``log inspect`` and ``log verify``."""
    with _bar() as bar, open_log(FILES, options.directory, progress=bar) as opened:
        checked = None
        if options.verify:
            checked = opened.check_records(progress=bar)
            opened.check_older_snapshots(progress=bar)
        report = opened.report(records_checked=checked)
        bar.clear()
        entries = opened.entries(*options.entries) if options.entries else ()
        if options.json:
            listed = {"entries": [_entry_plain(entry) for entry in entries]} if options.entries else {}
            say_json({"ok": not report.damaged_snapshots, "log": report, **listed})
        else:
            _say_all(log_lines(report))
            _say_all(map(entry_line, entries))
    # The log does without them, and yet not all is well in this directory.
    return 1 if report.damaged_snapshots else 0


def _entry_plain(entry: Entry) -> dict[str, object]:
    return {"index": entry.index, "term": entry.term, "kind": entry.kind.name, "size": len(entry.data)}


# ------------------------------------------------------------------------------------ snapshot


def snapshot(options: argparse.Namespace) -> int:
    """``snapshot inspect`` and ``snapshot verify``, of a directory or of one file."""
    if is_directory(FILES, options.path):
        with _bar() as bar:
            report = inspect_snapshots(options.path, verify=options.verify, files=FILES, progress=bar)
        if options.json:
            say_json({"ok": not report.damaged, "snapshots": report})
        else:
            _say_all(snapshots_lines(report))
        return 1 if report.damaged else 0
    with _bar() as bar:
        single = inspect_snapshot(options.path, verify=options.verify, files=FILES, progress=bar)
    if options.json:
        say_json({"ok": True, "snapshot": single})
    else:
        _say_all(snapshot_lines(single))
    return 0


def snapshot_save(options: argparse.Namespace) -> int:
    """``snapshot save``."""
    with _bar() as bar:
        saved = save_newest(options.directory, options.file, replace=options.force, files=FILES, progress=bar)
    if options.json:
        say_json({"ok": True, "saved": saved})
    else:
        _say_all(snapshot_lines(saved.saved))
    return 0


def snapshot_restore(options: argparse.Namespace) -> int:
    """``snapshot restore``."""
    with _bar() as bar:
        restored = restore_to(options.file, _target(options), files=FILES, progress=bar)
    if options.json:
        say_json({"ok": True, "restored": restored, "accepted": NOT_IN_SNAPSHOT, "next": WHAT_FOLLOWS})
    else:
        _say_all(snapshot_lines(restored.snapshot))
        say(f"restored; what that accepted: {NOT_IN_SNAPSHOT}.")
        _say_all(created_lines(restored.created))
    return 0


# ------------------------------------------------------------------------------------ recover


def recover(options: argparse.Namespace) -> int:
    """``recover``: a dry run, unless there is a place to write to."""
    for directory in options.directories:
        if not is_there(FILES, directory):
            raise ConfigurationError("", f"{directory} does not exist; name the directories that survived, only these")
    if options.to is None:
        for name in ("node_id", "cluster_id", "address", "accept_data_loss", "survivor"):
            if getattr(options, name):
                raise ConfigurationError("", f"--{_spelled(name)} needs --to: the place of the new directory")
        return _propose(options)
    with _bar() as bar:
        recovered = recover_to(
            options.directories,
            _target(options),
            accept_data_loss=options.accept_data_loss,
            survivor=options.survivor,
            files=FILES,
            progress=bar,
        )
    if options.json:
        say_json({"ok": True, "recovered": recovered, "accepted": LOSS, "next": WHAT_FOLLOWS})
    else:
        _say_all(survey_lines(recovered.survey))
        say(f"recovered from {recovered.survivor.directory}; what that accepted: {LOSS}.")
        _say_all(created_lines(recovered.created))
    return 0


def _propose(options: argparse.Namespace) -> int:
    with _bar() as bar, opened_all(options.directories, FILES, progress=bar) as opened:
        survey = Survey(tuple(each.survivor for each in opened))
    if not options.json:
        _say_all(survey_lines(survey))
        _say_all(proposal_lines(propose(survey)))
        return 0
    try:
        proposal = {"ok": True, "proposal": propose(survey).directory, "accepting": LOSS, "next": WHAT_FOLLOWS}
    except RecoveryRefused as error:
        proposal = {"ok": False, "error": error}
    say_json({**proposal, "survivors": survey.survivors})
    return 0 if proposal["ok"] else 1


def _target(options: argparse.Namespace) -> Target:
    for key in ("node_id", "cluster_id"):
        if getattr(options, key) is None:
            raise ConfigurationError("", f"--to needs --{_spelled(key)} as well")
    return Target(
        directory=options.to, node_id=options.node_id, cluster_id=options.cluster_id, address=options.address or ""
    )


def _spelled(name: str) -> str:
    return name.replace("_", "-")
