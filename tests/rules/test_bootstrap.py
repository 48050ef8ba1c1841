"""The first configuration: members agree on who they are before anybody votes."""

from random import Random

import pytest

from tests.rules.building import N1, N2, N3, N4, servers
from trio_raft._messages import Incarnation, ServerId
from trio_raft._rules.bootstrap import Bootstrap

A, B, C, OTHER = (Incarnation(name) for name in ("aa", "bb", "cc", "other"))
THREE = frozenset((N1, N2, N3))
COMPLETE = {N1: A, N2: B, N3: C}


def one() -> Bootstrap:
    """n1 of three, at its first start."""
    return Bootstrap(own_id=N1, own_incarnation=A, members=THREE)


def learn(
    bootstrap: Bootstrap,
    peer: ServerId,
    incarnation: Incarnation,
    stated: dict[ServerId, Incarnation],
    *,
    done: bool = False,
) -> bool:
    return bootstrap.learn(peer, incarnation, stated=stated, stated_done=done)


def knowing_all() -> Bootstrap:
    bootstrap = one()
    assert learn(bootstrap, N2, B, {N2: B})
    assert learn(bootstrap, N3, C, {N3: C})
    return bootstrap


def test_alone_is_done_at_once() -> None:
    """A cluster of one waits for nobody (O1)."""
    alone = Bootstrap(own_id=N1, own_incarnation=A, members=frozenset((N1,)))
    assert (alone.finish(), alone.done, alone.incarnations) == (True, True, {N1: A})
    assert alone.finish() is False


def test_learned_is_not_confirmed() -> None:
    """Knowing every incarnation is not enough: every member must have stated the whole map (O1)."""
    bootstrap = knowing_all()
    assert bootstrap.incarnations == COMPLETE
    assert (bootstrap.missing, bootstrap.finish()) == ((N2, N3), False)
    assert learn(bootstrap, N2, B, COMPLETE) is False
    assert (bootstrap.missing, bootstrap.finish()) == ((N3,), False)
    assert learn(bootstrap, N3, C, COMPLETE) is False
    assert (bootstrap.missing, bootstrap.finish(), bootstrap.done) == ((), True, True)


def test_a_different_statement_takes_the_confirmation_back() -> None:
    """A member that no longer states the same map does not confirm it (O1)."""
    bootstrap = knowing_all()
    learn(bootstrap, N2, B, COMPLETE)
    learn(bootstrap, N2, B, {**COMPLETE, N3: OTHER})
    assert bootstrap.missing == (N2, N3)


def test_an_emptied_directory_starts_the_confirmations_over() -> None:
    """A member wiped during the first start is recorded anew, and everybody has to confirm again (O1)."""
    bootstrap = knowing_all()
    learn(bootstrap, N2, B, COMPLETE)
    assert learn(bootstrap, N3, OTHER, {N3: OTHER})
    assert (bootstrap.incarnations, bootstrap.missing) == ({**COMPLETE, N3: OTHER}, (N2, N3))


def test_a_done_members_map_wins() -> None:
    """Whatever was recorded, the map of a member that is done replaces it (O1)."""
    bootstrap = knowing_all()
    settled = {**COMPLETE, N3: OTHER}
    assert learn(bootstrap, N2, B, settled, done=True)
    assert (bootstrap.done, bootstrap.incarnations, bootstrap.missing) == (True, settled, ())


@pytest.mark.parametrize(
    ("settled", "known"), [({**COMPLETE, N1: OTHER}, OTHER), ({N2: B, N3: C}, Incarnation("none"))]
)
def test_an_emptied_directory_is_told_so(settled: dict[ServerId, Incarnation], known: Incarnation) -> None:
    """A server that the cluster knows by another incarnation is never done, and knows why (O1)."""
    bootstrap = one()
    assert learn(bootstrap, N2, B, settled, done=True) is False
    assert (bootstrap.done, bootstrap.replaced_for, bootstrap.incarnations) == (False, known, {N1: A})


def test_done_is_final_and_strangers_do_not_count() -> None:
    """Nothing changes the map of a member that is done, and nobody from outside gets into one (O1)."""
    bootstrap = one()
    assert learn(bootstrap, N4, OTHER, {N4: OTHER}, done=True) is False
    learn(bootstrap, N2, B, COMPLETE, done=True)
    assert learn(bootstrap, N3, OTHER, {**COMPLETE, N3: OTHER}, done=True) is False
    assert (bootstrap.done, bootstrap.incarnations) == (True, COMPLETE)


class Member:
    """A member with a directory, which can be emptied."""

    def __init__(self, name: ServerId, members: frozenset[ServerId]) -> None:
        self.name, self.members, self.lives = name, members, 0
        self.wipe()

    def wipe(self) -> None:
        self.lives += 1
        self.incarnation = Incarnation(f"{self.name}.{self.lives}")
        self.durable: tuple[dict[ServerId, Incarnation], bool] = ({}, False)
        self.restart()

    def restart(self) -> None:
        incarnations, done = self.durable
        self.bootstrap = Bootstrap(
            own_id=self.name,
            own_incarnation=self.incarnation,
            members=self.members,
            incarnations=dict(incarnations),
            done=done,
        )
        self.save()

    def save(self) -> None:
        self.durable = (dict(self.bootstrap.incarnations), self.bootstrap.done)

    def hear(self, peer: "Member") -> None:
        stated, done = peer.durable
        self.bootstrap.learn(peer.name, peer.incarnation, stated=stated, stated_done=done)
        self.save()
        self.bootstrap.finish()
        self.save()


@pytest.mark.parametrize("seed", range(100))
def test_members_that_are_done_agree(seed: int) -> None:
    """With restarts and emptied directories all done members have one map, and any other is told its place (O1).

    A member that is emptied after it has stated the whole map may be held to that by the others: they get done with
    the incarnation that is gone, and the new one is refused.
    """
    random = Random(seed)
    names = frozenset(servers("n1", "n2", "n3", "n4")[: random.randint(2, 4)])
    members = [Member(name, names) for name in sorted(names)]
    held_to_it: set[ServerId] = set()
    for step in range(300):
        member, peer = random.sample(members, 2)
        fate = random.random() if step < 200 else 1.0  # in the end nothing goes wrong any more
        if fate < 0.02 and not any(each.bootstrap.done for each in members):
            if member.durable[0].keys() == names:
                held_to_it.add(member.name)
            member.wipe()
        elif fate < 0.1:
            member.restart()
        else:
            member.hear(peer)
        maps = [each.bootstrap.incarnations for each in members if each.bootstrap.done]
        assert all(each == maps[0] for each in maps)
    settled = next(each.bootstrap.incarnations for each in members if each.bootstrap.done)
    for member in members:
        assert member.bootstrap.done is (settled[member.name] == member.incarnation)
        if not member.bootstrap.done:
            assert member.name in held_to_it
            assert member.bootstrap.replaced_for == settled[member.name]
