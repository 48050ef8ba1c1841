"""Single key presses, and what they do to the cluster."""

import os
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio

from .child import DidNotStart, NoAnswer
from .cluster import Cluster, WrongMoment

KEYS = {
    "k": "kill leader",
    "f": "kill follower",
    "p": "pause leader",
    "c": "continue",
    "r": "restart",
    "s": "snapshot",
    "q": "quit",
}

ESCAPE = "\x1b"


@contextmanager
def single_keys() -> Iterator[None]:
    """Let the terminal hand over each key at once and unseen; Ctrl-C stays a signal."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def each_key() -> AsyncIterator[str]:
    """The keys as they are pressed; ends with the terminal."""
    descriptor = sys.stdin.fileno()
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        pressed = os.read(descriptor, 64)
        if not pressed:
            return
        keys = pressed.decode(errors="replace")
        if keys.startswith(ESCAPE):
            yield keys  # an arrow or the like: one key, several characters
        else:
            for key in keys:
                yield key


async def obey_keys(cluster: Cluster) -> None:
    """Carry out keys one by one until ``q`` or the end of the terminal."""
    async for key in each_key():
        if key == "q":
            return
        try:
            await _obey(cluster, key)
        except (WrongMoment, DidNotStart, NoAnswer) as error:
            cluster.feed.say(str(error))
    await trio.sleep_forever()


def why_no_majority(cluster: Cluster) -> str:
    """What is missing when the nodes that run are no majority, and which key helps; empty when they are one."""
    if cluster.has_majority():
        return ""
    keys = [key for key, nodes in (("r", cluster.stopped()), ("c", cluster.paused())) if nodes]
    help_ = f"; press {' or '.join(keys)}" if keys else ""
    return f"{cluster.count_running()}: no majority{help_}"


async def _obey(cluster: Cluster, key: str) -> None:
    leader = cluster.leader()
    match key:
        case "k" | "p" | "s" if leader is None:
            missing = why_no_majority(cluster)
            raise WrongMoment("nobody leads just now" + (f": {missing}" if missing else ""))
        case "k" if leader is not None:
            await cluster.kill(leader)
        case "p" if leader is not None:
            await cluster.pause(leader)
        case "s" if leader is not None:
            await cluster.take_snapshot_on(leader)
        case "f":
            followers = [child for child in cluster.running() if child is not leader]
            if not followers:
                raise WrongMoment("no follower runs")
            await cluster.kill(followers[0])
        case "c":
            if not (paused := cluster.paused()):
                raise WrongMoment("nothing is paused")
            for child in paused:
                cluster.resume(child)
        case "r":
            if not cluster.stopped():
                raise WrongMoment("nothing is stopped" + ("; c lets the paused go on" if cluster.paused() else ""))
            await cluster.start()
        case _:
            raise WrongMoment(f"{key!r} does nothing here; the keys are {', '.join(KEYS)}")
