"""The tests of trio_raft, and what they share."""
