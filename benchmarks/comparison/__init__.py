"""The parts of the benchmarks that measure several systems in turn.

Reading order: ``children`` (a process that is asked in lock step), ``machine`` (processor time, ports, the disk),
``systems`` (what is compared, and how a cluster of it starts), ``interleaving`` (rounds, so that the machine's slow
drifts hit all alike), the measures (``writes``, ``submits``, ``sizes``, ``nodes``, ``failover``, ``idle``,
``elections``, ``steady``) and their list, ``measures``. Beside them stand ``tables``, ``plot`` and ``program``.
``compare.py`` and ``throughput.py`` are made of these parts.
"""
