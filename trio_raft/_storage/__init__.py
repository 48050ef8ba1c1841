"""Durable storage of one server's log: ``memory`` for tests, ``wal`` for real.

Reading order of the write-ahead log: ``format`` (what the bytes mean), ``recovery`` (what a crash may leave,
and what it may not), ``wal`` (the store), then what they stand on: ``segments``, ``entry_map``, ``custody``,
``files``.
"""
