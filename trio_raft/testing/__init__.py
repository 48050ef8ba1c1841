"""For tests of programs on trio_raft: the same node, with time, disk and network under control."""
