"""The script language: verbs separated by semicolons, run one after the other.

``parse`` checks every word before anything is started; ``run_script`` carries the verbs out.
"""

import math
from collections.abc import Sequence

import attrs
import trio

from .cluster import Cluster, WrongMoment
from .verdict import Verdict, collect_dumps, judge
from .writes import Writes

LANGUAGE = """\
write N                       until N new keys are acknowledged; a fresh key for every attempt, and an attempt
                              whose outcome is unknown is counted, never made again
kill leader|follower|NAME     SIGKILL
pause leader|follower|NAME    SIGSTOP
resume leader|follower|NAME   SIGCONT; leader is the node that led when it was paused
restart                       start every node that was killed; paused ones need resume
snapshot                      the leader takes one now
sleep S                       S seconds
verify                        compare all running nodes with what was acknowledged; a script that does not
                              end with it gets one at its end"""

ARGUMENTS = {
    "write": "N",
    "sleep": "S",
    "kill": "leader|follower|NAME",
    "pause": "leader|follower|NAME",
    "resume": "leader|follower|NAME",
    "restart": "",
    "snapshot": "",
    "verify": "",
}
"""The one argument that a verb takes, if any, by the name that the language gives it."""

MAX_WRITES = 10_000_000
MAX_SLEEP_SECONDS = 3600.0


class ScriptError(Exception):
    """A verb that cannot be carried out; the text names it and its position."""

    def __init__(self, position: int, text: str, problem: str) -> None:
        super().__init__(f"verb {position}, {text!r}: {problem}")


@attrs.frozen
class Verb:
    """One step: its position counts from 1, its text is as it was given."""

    position: int
    text: str
    name: str
    count: int = 0
    """write"""
    seconds: float = 0.0
    """sleep"""
    who: str = ""
    """kill, pause, resume: leader, follower or a node's name"""


def parse(script: str, *, names: Sequence[str]) -> list[Verb]:
    """Read a script for a cluster of these nodes. Raises ScriptError."""
    texts = [text.strip() for text in script.split(";")]
    while texts and not texts[-1]:
        texts.pop()  # "verify;" is as good as "verify"
    if not texts:
        raise ScriptError(1, script, "the script is empty; it needs at least one verb, for example verify")
    return [_parse_verb(position, text, names) for position, text in enumerate(texts, start=1)]


async def run_script(verbs: Sequence[Verb], cluster: Cluster, writes: Writes) -> Verdict:
    """Carry out the verbs; the verdict is the last one, but the first that is not good ends the script.

    Raises ScriptError for a verb that makes no sense when its turn comes, OutOfPatience, DidNotStart.
    """
    verdict = None
    for verb in verbs:
        cluster.feed.say(f"▸ {verb.text}")
        verdict = None
        try:
            match verb.name:
                case "write":
                    await writes.write(verb.count)
                case "kill":
                    await cluster.kill(await cluster.choose(verb.who, verb.text))
                case "pause":
                    await cluster.pause(await cluster.choose(verb.who, verb.text))
                case "resume":
                    cluster.resume(cluster.choose_paused(verb.who))
                case "restart":
                    await cluster.start()
                case "snapshot":
                    await cluster.take_snapshot(verb.text)
                case "sleep":
                    await trio.sleep(verb.seconds)
                case _:
                    verdict = await verify(cluster, writes)
                    if not verdict.good:
                        return verdict
        except WrongMoment as error:
            raise ScriptError(verb.position, verb.text, str(error)) from error
    return verdict or await verify(cluster, writes)


async def verify(cluster: Cluster, writes: Writes) -> Verdict:
    """Compare the running nodes with the ledger, and say what was found. Raises OutOfPatience."""
    dumps = await collect_dumps(cluster)
    left_out = sorted(child.name for child in [*cluster.stopped(), *cluster.paused()])
    verdict = judge(writes.ledger, dumps, not_compared=left_out)
    same = "identical" if verdict.identical else "DIFFERENT"
    cluster.feed.say(
        f"{', '.join(verdict.compared)} compared: {verdict.lost} lost, {verdict.phantom} phantom, {same}"
        + (f"; {', '.join(left_out)} not compared" if left_out else "")
    )
    for example in verdict.examples:
        cluster.feed.say(example)
    return verdict


def _parse_verb(position: int, text: str, names: Sequence[str]) -> Verb:
    words = text.split()
    if not words:
        raise ScriptError(position, text, "there is nothing between two semicolons")
    name, arguments = words[0], words[1:]
    if name not in ARGUMENTS:
        raise ScriptError(position, text, f"{name!r} is no verb; there are {', '.join(ARGUMENTS)}")
    wanted = ARGUMENTS[name]
    if wanted and not arguments:
        raise ScriptError(position, text, f"{name} {wanted}: {wanted} is missing")
    if len(arguments) > bool(wanted):
        raise ScriptError(position, text, f"{name} takes {f'one argument, {wanted}' if wanted else 'no arguments'}")
    if name == "write":
        return Verb(position, text, name, count=_parse_count(position, text, arguments[0]))
    if name == "sleep":
        return Verb(position, text, name, seconds=_parse_seconds(position, text, arguments[0]))
    if arguments:
        known = ["leader", "follower", *names]
        if arguments[0] not in known:
            raise ScriptError(position, text, f"{arguments[0]!r} is none of {', '.join(known)}")
        return Verb(position, text, name, who=arguments[0])
    return Verb(position, text, name)


def _parse_count(position: int, text: str, word: str) -> int:
    if not (word.isascii() and word.isdigit() and 1 <= int(word) <= MAX_WRITES):
        raise ScriptError(position, text, f"{word!r} is no number of writes from 1 to {MAX_WRITES}")
    return int(word)


def _parse_seconds(position: int, text: str, word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_SLEEP_SECONDS:
        raise ScriptError(position, text, f"{word!r} is no number of seconds from 0 to {MAX_SLEEP_SECONDS:g}")
    return seconds
