"""Durable storage of one server: its log (``memory`` for tests, ``wal`` for real), and its snapshots likewise.

Reading order of the write-ahead log: ``format`` (what the bytes mean), ``recovery`` (what a crash may leave, and what
it may not), ``found`` and ``reconcile`` (what of it counts beside the newest snapshot) and ``repair`` (what is done
about it), ``wal`` (the store) with ``writing``, ``reading``, ``segments`` and ``old_segments``, then what they stand
on: ``entry_map`` (where each entry is), ``custody`` (who closes), ``files`` (the disk itself).

Of the snapshots: ``snapshot_format`` (what the bytes mean) and ``snapshot_parsing`` (the way back), ``snapshots`` (the
store) on ``snapshot_files``, ``snapshots_memory``; ``snapshot_copies`` for an operator's tools.
"""
