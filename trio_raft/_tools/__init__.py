"""Data directories that no node is open on: looking into them, and making a new one from what survived.

Reading order: ``directories`` (whose a directory is, and how it is held meanwhile), ``log`` and ``snapshots`` (the two
things in it), ``survey`` (several directories, and which of them knows most), ``rebuild`` (the new directory) with
``making`` and ``audit``; then the command line: ``commands`` with ``texts``, ``plain`` and ``console``.

House rule: what is looked into is never changed, not even its lock file; everything new is written in a place of its
own, and gets its name when it is whole.
"""
