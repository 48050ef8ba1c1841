"""What a node must not leave behind: tasks, connections, listeners, file descriptors."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_raft.testing._network import MemoryNetwork


def tasks_now() -> Counter[str]:
    """The names of all tasks of this run, Trio's own included."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    names: Counter[str] = Counter()
    waiting = [root]
    while waiting:
        task = waiting.pop()
        names[task.name] += 1
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return names


def descriptors_now() -> dict[int, str]:
    """This process's open files, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        # The listing itself had a descriptor, which is gone.
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


@contextmanager
def nothing_left(network: MemoryNetwork | None = None) -> Iterator[None]:
    """At the end there are the tasks and descriptors that there were at the start, and no connection or listener."""
    tasks, descriptors = tasks_now(), descriptors_now()
    yield
    assert tasks_now() - tasks == Counter()
    new = {number: name for number, name in descriptors_now().items() if descriptors.get(number) != name}
    assert new == {}
    if network is not None:
        assert network.open_connections == 0
        assert network._listeners == {}
