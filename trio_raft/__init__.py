"""Raft consensus on Trio."""
