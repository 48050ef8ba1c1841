"""Many records at once: those that are alike take a short way, which must find what looking at each would find."""

import random

import pytest

from trio_raft._records import (
    BadRecord,
    Entry,
    EntryKind,
    LogIndex,
    Term,
    data_of,
    decode_alike,
    decode_entries,
    entries_in_term,
    entries_of,
    join_records,
    make_entry,
    place_of,
)

MANY = 70
"""More than a lot of 32, and not a whole number of them."""


def command(index: int, *, term: int = 3, data: bytes | None = None) -> Entry:
    kind = EntryKind.COMMAND
    data = b"%011d" % index if data is None else data
    return make_entry(index=LogIndex(index), term=Term(term), kind=kind, data=data)


def alike(count: int = MANY, *, first: int = 250) -> list[Entry]:
    """The indexes pass 256, where a second byte of theirs changes."""
    return [command(index) for index in range(first, first + count)]


def fields(entry: Entry) -> tuple[int, int, EntryKind, bytes]:
    return entry.index, entry.term, entry.kind, entry.record


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, MANY, 300])
def test_decode_entries_alike(count: int) -> None:
    """Records of one size come back as the entries that were encoded, however many there are."""
    entries = alike(count)
    assert [fields(each) for each in decode_entries(join_records(entries))] == [fields(each) for each in entries]


@pytest.mark.parametrize("first", [1, (1 << 32) - 20, (1 << 63) - MANY, (1 << 64) - MANY - 1])
def test_decode_alike_at_large_indexes(first: int) -> None:
    """Every byte of an index is looked at, and grows as it has to."""
    entries = alike(first=first)
    assert decode_alike(join_records(entries)) == [each.record for each in entries]


def test_decode_entries_behind_the_largest_index() -> None:
    """No damaged index makes a buffer one that cannot be decoded."""
    entries = [command((1 << 64) - 1)] * MANY
    assert decode_entries(join_records(entries)) == entries


def test_decode_alike_takes_lengths_that_differ_by_the_padding_alone() -> None:
    """Records of one size may hold data of different lengths."""
    entries = [command(index, data=bytes(index % 8 + 249)) for index in range(1, MANY)]
    entries = [each for each in entries if len(each.data) < 256]
    entries = [command(number, data=each.data) for number, each in enumerate(entries, start=1)]
    assert decode_alike(join_records(entries)) == [each.record for each in entries]


@pytest.mark.parametrize(
    "odd",
    [
        command(280, term=4),
        command(281),
        command(280 + (1 << 40)),
        command(280, data=b"a much longer command"),
        command(280, data=b"seven.."),
        make_entry(index=LogIndex(280), term=Term(3), kind=EntryKind.NO_OP, data=b"%011d" % 280),
        make_entry(index=LogIndex(280), term=Term(3), kind=EntryKind.NO_OP, data=b""),
    ],
    ids=["term", "index", "high byte of the index", "longer", "shorter", "kind", "no-op"],
)
@pytest.mark.parametrize("at", [0, 30, MANY - 1])
def test_decode_entries_with_an_odd_one_among_them(odd: Entry, at: int) -> None:
    """One that is not like the others is decoded as it is, wherever it stands."""
    entries = alike()
    entries[at] = odd
    body = join_records(entries)
    assert decode_alike(body) is None
    assert [fields(each) for each in decode_entries(body)] == [fields(each) for each in entries]


def test_decode_entries_refuses_each_flipped_bit() -> None:
    """A single wrong bit anywhere in one of many records is found, and its record is named."""
    entries, at = alike(), 40
    size = len(entries[0].record)
    body = join_records(entries)
    for bit in range(8 * size):
        damaged = bytearray(body)
        damaged[at * size + bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRecord) as caught:
            decode_entries(bytes(damaged))
        assert caught.value.offset >= at * size


def test_decode_alike_never_takes_what_each_would_refuse() -> None:
    """Whatever bytes are exchanged, cut or repeated: the short way takes nothing but sound records."""
    chance = random.Random(5)
    body = join_records(alike())
    for _ in range(300):
        damaged = bytearray(body)
        start, length = chance.randrange(len(body)), chance.choice([1, 8, 48, 96])
        other = chance.randrange(len(body))
        damaged[start : start + length] = body[other : other + length]
        found = decode_alike(bytes(damaged))
        assert found is None or b"".join(found) == body


def test_bare_records_tell_what_the_entries_hold() -> None:
    """Data, place and entry can be had from bare records."""
    entries = [command(index, data=bytes(index)) for index in range(1, 20)]
    records = [each.record for each in entries]
    assert data_of(records) == [bytes(index) for index in range(1, 20)] == [each.data for each in entries]
    assert [place_of(record) for record in records] == [(index, 3) for index in range(1, 20)]
    assert [fields(each) for each in entries_of(records)] == [fields(each) for each in entries]
    assert [fields(each) for each in entries_in_term(records, LogIndex(1), Term(3))] == [
        fields(each) for each in entries
    ]
    assert (data_of([]), entries_of([])) == ([], [])
