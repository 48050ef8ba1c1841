"""Rows of figures: medians over rounds, ratios within a round, and a table that a terminal shows."""

import statistics
from collections.abc import Mapping, Sequence

Row = dict[str, str | int | float | None]
"""One measurement: labels and figures by name; None where a system does not tell."""


def add_ratios(rows: Sequence[Row], figure: str, *, subject: str, keys: Sequence[str]) -> None:
    """Give each row ``ratio``: how many times its own figure the subject reached in the same round and place.

    Within a round, because the machine is the same there: a ratio of two medians would compare different moments.
    """
    of_subject = {_key(row, [*keys, "round"]): row[figure] for row in rows if row["system"] == subject}
    for row in rows:
        own, other = row[figure], of_subject.get(_key(row, [*keys, "round"]))
        row["ratio"] = other / own if isinstance(own, int | float) and isinstance(other, int | float) and own else None


def medians(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """One row for each combination of the labels, in order of appearance: the median of each figure, and ``rounds``."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_key(row, keys), []).append(row)
    found: list[Row] = []
    for group in groups.values():
        combined: Row = {key: group[0][key] for key in keys}
        for figure in group[0]:
            numbers = [value for row in group if isinstance(value := row.get(figure), int | float)]
            if figure not in {*keys, "round"}:
                combined[figure] = statistics.median(numbers) if numbers else None
        combined["rounds"] = len(group)
        found.append(combined)
    return found


def percentile(numbers: Sequence[float], share: float) -> float:
    """The number below which this share of them lies."""
    return sorted(numbers)[min(len(numbers) - 1, int(len(numbers) * share))]


def print_table(rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """The rows, one line each, aligned under their names; a dash where there is no figure."""
    cells = [list(columns)]
    for row in rows:
        values = {name: row.get(name) for name in columns}
        cells.append(["–" if value is None else columns[name].format(value) for name, value in values.items()])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def _key(row: Row, keys: Sequence[str]) -> tuple[object, ...]:
    return tuple(row[key] for key in keys)
