"""The example cluster behind ``examples/cluster.py``: real processes, real sockets, real syncs.

One controller starts one child process per node and talks with each over its standard input and output, one
JSON object per line. Modules, in reading order:

* ``machine``, ``node``: the program that a child runs: one node with a key-value machine. Start here to see the
  library used.
* ``child``: one child as the controller sees it: start, ask, pause, resume, kill.
* ``cluster``: all children: their ports, who leads, what the event feed says.
* ``writes``: attempts to write and what became of each; rate, latencies, failovers.
* ``verdict``: compares what was acknowledged with what the replicas hold.
* ``script``: the script language and its runner.
* ``live``, ``keys``: the live view and its keys.
* ``arguments``: what the command line says.

House rule: every wait on a child is bounded, since a stopped process answers nothing.
"""
