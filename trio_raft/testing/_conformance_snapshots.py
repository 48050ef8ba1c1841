"""Does a snapshot store of your own keep to its contract?  A suite for pytest.

Derive a test class, and say how to make the store::

    class TestMyStore(SnapshotStoreConformance):
        @pytest.fixture
        def make_snapshot_store(self, tmp_path):
            return lambda: MyStore(tmp_path)

Each call of what the fixture returns gives a store that was not opened yet, always on the same storage: calling it
again is what a restart of the process does.  Each test is one sentence of the contract in
``trio_raft.abc.SnapshotStore``.

House rule: only the contract is used, and nothing of any store's inside.
"""

from collections.abc import Callable, Iterable

import trio

from trio_raft._errors import DirectoryMismatch, SnapshotCorrupt, StorageError
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft.abc import (
    SnapshotConfiguration,
    SnapshotMeta,
    SnapshotPoint,
    SnapshotsFound,
    SnapshotStore,
    StoredSnapshot,
    StoreIdentity,
)
from trio_raft.testing._conformance_log import NotConforming
from trio_raft.testing._determinism import divide

MakeSnapshotStore = Callable[[], SnapshotStore]

CLUSTER = "conformance"


class SnapshotStoreConformance:
    """Derive from it, name the class ``Test…``, and give it a fixture ``make_snapshot_store``; see the module."""

    largest_state = 3 << 20
    """Bytes; the largest state that is tried."""

    def test_open_new(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """A new store holds nothing."""
        store, found = _open(make_snapshot_store)
        store.tidy()
        store.close()
        _expect("what is found", found, SnapshotsFound(None))

    def test_finished_is_found(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """The next opening finds what ``finish`` returned: header, size and digest, and the state bit by bit (S7)."""
        store, _ = _open(make_snapshot_store)
        taken = _take(store, _meta(7, 3, version=5), [b"some ", b"", b"state"])
        store.close()
        for _ in range(2):
            store, found = _open(make_snapshot_store)
            _expect("newest", found.newest, taken)
            _expect("header", taken.meta, _meta(7, 3, version=5))
            _expect("state", _state(store, taken), b"some state")
            store.close()

    def test_any_state_comes_back(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """A state of any size, given in pieces of any size, comes back bit by bit."""
        draws = divide(1, CLUSTER)
        whole = draws.randbytes(self.largest_state)
        store, _ = _open(make_snapshot_store)
        for index, size in enumerate((0, 1, 511, 512, 513, 65536, self.largest_state), start=1):
            for longest in (size // 40 + 1, size + 1):
                pieces: list[bytes] = []
                rest = memoryview(whole)[:size]
                while rest:
                    length = draws.randint(0, longest)
                    pieces.append(bytes(rest[:length]))
                    rest = rest[length:]
                taken = _take(store, _meta(index, 1), pieces)
                _expect(f"state of {size} bytes", _state(store, taken) == whole[:size], True)
        store.close()

    def test_newest_by_term_then_index(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """The newest is the one with the highest (term, index), as numbers, whichever was taken last (N4)."""
        store, _ = _open(make_snapshot_store)
        newest = _meta(9, 10)
        for meta in (_meta(8, 10), newest, _meta(1000, 9), _meta(10**17, 2)):
            _take(store, meta, [b"state"])
        store.close()
        store, found = _open(make_snapshot_store)
        store.close()
        _expect("newest", found.newest and found.newest.meta, newest)

    def test_unfinished_is_not_found(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """What was never finished is not found; it may be reported, and ``tidy`` removes it (S7)."""
        store, _ = _open(make_snapshot_store)
        data = _bytes(store, _take(store, _meta(5, 1), [b"older"]))
        store.begin(_meta(9, 1)).write(bytes(2 << 20))
        store.receive(size=len(data), digest="00").write(data)
        store.close()
        store, found = _open(make_snapshot_store)
        _expect("newest", found.newest and found.newest.meta, _meta(5, 1))
        store.tidy()
        store.close()
        store, found = _open(make_snapshot_store)
        store.close()
        _expect("newest, damaged", (found.newest and found.newest.meta, found.damaged), (_meta(5, 1), ()))
        _expect("unfinished", found.unfinished, ())

    def test_abort(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """Giving up leaves nothing behind; twice is fine, and after ``finish`` it changes nothing."""
        store, _ = _open(make_snapshot_store)
        writer = store.begin(_meta(5, 1))
        writer.write(b"state")
        taken = writer.finish()
        writer.abort()
        for giving_up in (store.begin(_meta(9, 1)), store.receive(size=10, digest="00")):
            giving_up.write(b"state")
            giving_up.abort()
            giving_up.abort()
        store.close()
        store, found = _open(make_snapshot_store)
        store.close()
        _expect("what is found", found, SnapshotsFound(taken))

    def test_bytes_travel(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """What a reader reads, in pieces of any size, a receiver turns into the same snapshot again (N5)."""
        draws = divide(2, CLUSTER)
        store, _ = _open(make_snapshot_store)
        taken = _take(store, _meta(5, 1), [draws.randbytes(self.largest_state)])
        data = _bytes(store, taken)
        _take(store, _meta(6, 1), [b"newer"])
        store.retain(1)
        receiver = store.receive(size=taken.size, digest=taken.digest)
        while receiver.received < taken.size:
            receiver.write(data[receiver.received :][: draws.choice((1, 100, 70_000, 1 << 20))])
        received = receiver.finish()
        _expect("header, size, digest", _outline(received), _outline(taken))
        _expect("bytes", _bytes(store, received) == data, True)
        store.close()

    def test_receive_refuses_other_bytes(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """Bytes that are cut, damaged, too many, or not those announced are refused, and nothing is found (N5)."""
        store, _ = _open(make_snapshot_store)
        taken = _take(store, _meta(5, 1), [b"state" * 100])
        data = _bytes(store, taken)
        _take(store, _meta(6, 1), [b"newer"])
        store.retain(1)
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        cases = {
            "cut": (data[:-1], taken.size, taken.digest),
            "cut, and announced so": (data[:-1], taken.size - 1, taken.digest),
            "damaged": (bytes(flipped), taken.size, taken.digest),
            "too long": (data + b"x", taken.size, taken.digest),
            "another": (data, taken.size, "00" * 32),
        }
        for case, (received, size, digest) in cases.items():
            _expect_refusal(store, received, size, digest, SnapshotCorrupt, case)
        store.close()
        store, found = _open(make_snapshot_store)
        store.close()
        _expect("newest, damaged", (found.newest and found.newest.meta, found.damaged), (_meta(6, 1), ()))

    def test_belongs_to_one_cluster(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """Another cluster's snapshot is refused, when it is found and when it is received."""
        store, _ = _open(make_snapshot_store)
        other = _take(store, _meta(5, 1, cluster_id="another"), [b"state"])
        data = _bytes(store, other)
        _expect_refusal(store, data, other.size, other.digest, DirectoryMismatch, "another cluster's")
        store.close()
        store = make_snapshot_store()
        try:
            store.open(_identity())
        except DirectoryMismatch:
            store.close()
        else:
            raise NotConforming("a store with another cluster's snapshot was opened: DirectoryMismatch is expected")

    def test_retain(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """All but the newest are removed, by (term, index); the rest can be read, the others cannot (N4)."""
        store, _ = _open(make_snapshot_store)
        metas = [_meta(1000, 9), _meta(8, 10), _meta(9, 10), _meta(10, 10)]
        taken = [_take(store, meta, [b"state"]) for meta in metas]
        for keep in (4, 3, 3, 1):
            store.retain(keep)
            readable = [snapshot.meta for snapshot in taken if _is_readable(store, snapshot)]
            _expect(f"the newest {keep}", readable, metas[-keep:])
        store.close()
        store, found = _open(make_snapshot_store)
        store.close()
        _expect("newest", found.newest, taken[-1])

    def test_reader_keeps_what_is_removed(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """A reader reads on, whatever is removed meanwhile (N7)."""
        store, _ = _open(make_snapshot_store)
        reader = store.read(_take(store, _meta(5, 1), [b"state"]))
        begun = reader.read(0, 10)
        _take(store, _meta(6, 1), [b"newer"])
        store.retain(1)
        _expect("its beginning", reader.read(0, 10), begun)
        _expect("its state", b"".join(reader.state()), b"state")
        reader.close()
        reader.close()
        store.close()

    def test_close(self, make_snapshot_store: MakeSnapshotStore) -> None:
        """After closing nothing works any more, and what was given out can still be given up; twice is fine."""
        store, _ = _open(make_snapshot_store)
        taken = _take(store, _meta(5, 1), [b"state"])
        writer, receiver = store.begin(_meta(6, 1)), store.receive(size=taken.size, digest=taken.digest)
        reader = store.read(taken)
        store.close()
        store.close()
        attempts: dict[str, Callable[[], object]] = {
            "begin": lambda: store.begin(_meta(7, 1)),
            "receive": lambda: store.receive(size=1, digest=""),
            "read": lambda: store.read(taken),
            "retain": lambda: store.retain(1),
            "tidy": store.tidy,
            "finish": writer.finish,
            "write": lambda: receiver.write(b"tRsn"),
            "read on": lambda: reader.read(0, 1),
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except trio.ClosedResourceError:
                continue
            raise NotConforming(f"{name} after closing: ClosedResourceError is expected")
        writer.abort()
        receiver.abort()
        reader.close()


# ------------------------------------------------------------------------------------ helpers


def _identity() -> StoreIdentity:
    return StoreIdentity(CLUSTER, ServerId("n1"), Incarnation("first"))


def _meta(index: int, term: int, *, cluster_id: str = CLUSTER, version: int = 1) -> SnapshotMeta:
    members = (ServerId("n1"), ServerId("n2"))
    incarnations = {ServerId("n1"): Incarnation("first"), ServerId("n2"): Incarnation("x")}
    configuration = SnapshotConfiguration(LogIndex(2), members, (ServerId("n3"),), incarnations)
    return SnapshotMeta(cluster_id, SnapshotPoint(LogIndex(index), Term(term)), configuration, version)


def _open(make_snapshot_store: MakeSnapshotStore) -> tuple[SnapshotStore, SnapshotsFound]:
    store = make_snapshot_store()
    return store, store.open(_identity())


def _take(store: SnapshotStore, meta: SnapshotMeta, pieces: Iterable[bytes]) -> StoredSnapshot:
    writer = store.begin(meta)
    for piece in pieces:
        writer.write(piece)
    return writer.finish()


def _state(store: SnapshotStore, snapshot: StoredSnapshot) -> bytes:
    reader = store.read(snapshot)
    state = b"".join(reader.state())
    reader.close()
    return state


def _bytes(store: SnapshotStore, snapshot: StoredSnapshot) -> bytes:
    """All of it, as it travels."""
    reader = store.read(snapshot)
    data = reader.read(0, 1000)
    while len(data) < snapshot.size:
        data += reader.read(len(data), 1 << 20)
    _expect("what is behind its end", reader.read(len(data), 10), b"")
    reader.close()
    return data


def _is_readable(store: SnapshotStore, snapshot: StoredSnapshot) -> bool:
    try:
        store.read(snapshot).close()
    except StorageError:
        return False
    return True


def _outline(snapshot: StoredSnapshot) -> tuple[SnapshotMeta, int, str]:
    return snapshot.meta, snapshot.size, snapshot.digest


def _expect_refusal(
    store: SnapshotStore, data: bytes, size: int, digest: str, error: type[Exception], case: str
) -> None:
    receiver = store.receive(size=size, digest=digest)
    receiver.write(data)
    try:
        receiver.finish()
    except error:
        receiver.abort()
    else:
        raise NotConforming(f"{case}: {error.__name__} is expected")


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise NotConforming(f"{what}: found {found!r}, but the contract demands {expected!r}")
