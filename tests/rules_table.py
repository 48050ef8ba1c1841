"""Which test proves which rule: what docs/rules.md, the tests and tests/rules_table.toml say about it.

A test claims rules by naming their ids in parentheses in its docstring, `(R2)` or `(S3, S4)`. The table
holds what the tests cannot say of themselves: which claims must not get lost, and what is still open and why.
An entry has one of

    tests = ["tests/rules/test_x.py::test_y"]      the rule is proven
    tests = [...], open_clause = "while joint"     proven but for this part
    open = "why"                                   not proven yet; an open_clause beside it will remain

As a program, `python tests/rules_table.py` prints the rules with their tests, and with `--write` brings the
table up to date: it adds claims that are new, forgets tests that are gone, and closes an open rule that a
test now claims. Whether the tests prove all of it is for whoever runs it to judge; what is left becomes an
open_clause. Reasons are written by hand and kept. It needs nothing but the standard library.
"""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
RULES_PAGE = ROOT / "docs" / "rules.md"
TABLE = ROOT / "tests" / "rules_table.toml"

NOT_BUILT_YET = "not built yet"

TABLE_HEAD = """\
# Rules and the tests that prove them; see tests/rules_table.py, whose --write keeps this file up to date.
# tests: claims that must not get lost. open_clause: the part that no test proves yet. open: no test does.
"""


class FoundTest(NamedTuple):
    """One test function: where it is, what it says, and the rules that it claims."""

    name: str
    docstring: str | None
    rules: tuple[str, ...]


Table = dict[str, dict[str, Any]]


def rules_on_page(page: str) -> list[str]:
    """The ids that the page states, in its order, repetitions included."""
    return re.findall(r"^- \*\*([A-Z]\d+)\*\* ", page, flags=re.MULTILINE)


def claimed_rules(docstring: str) -> tuple[str, ...]:
    """The ids that a docstring names in parentheses that hold nothing else."""
    groups = re.findall(r"\(([A-Z]\d+(?:, [A-Z]\d+)*)\)", docstring)
    return tuple(rule for group in groups for rule in group.split(", "))


def tests_in(source: str, file: str) -> Iterator[FoundTest]:
    """The test functions of one file, also inside classes."""

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[FoundTest]:
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                yield from visit(node.body, f"{prefix}::{node.name}")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
                docstring = ast.get_docstring(node)
                rules = claimed_rules(docstring or "")
                yield FoundTest(name=f"{prefix}::{node.name}", docstring=docstring, rules=rules)

    yield from visit(ast.parse(source).body, file)


def all_tests() -> list[FoundTest]:
    """Every test function below tests/."""
    found: list[FoundTest] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        found += tests_in(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    return found


def claims_of(tests: list[FoundTest]) -> dict[str, list[str]]:
    """rule id → names of the tests that claim it."""
    claims: dict[str, list[str]] = {}
    for test in tests:
        for rule in test.rules:
            claims.setdefault(rule, []).append(test.name)
    return claims


def read_table() -> Table:
    table: Table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return table


def complaints(rules: list[str], claims: Mapping[str, list[str]], table: Table) -> Iterator[str]:
    """Everything in which the page, the tests and the table disagree."""
    for rule in sorted(rule for rule in set(rules) if rules.count(rule) > 1):
        yield f"docs/rules.md states {rule} twice"
    for rule in sorted(set(claims) - set(rules)):
        yield f"{claims[rule][0]} claims {rule}, which docs/rules.md does not state"
    for rule in sorted(set(table) - set(rules)):
        yield f"the table lists {rule}, which docs/rules.md does not state"
    for rule in rules:
        if rule not in table:
            yield f"{rule} is not in the table"
        else:
            yield from entry_complaints(rule, claims.get(rule, []), table[rule])


def entry_complaints(rule: str, claiming: list[str], entry: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with one rule's entry."""
    if set(entry) - {"open_clause"} not in ({"tests"}, {"open"}):
        yield f"{rule} must have either `tests` or `open`, and perhaps `open_clause`; it has {sorted(entry)}"
        return
    for key in ("open", "open_clause"):
        if not str(entry.get(key, "unset")).strip():
            yield f"{rule} gives no reason in `{key}`"
    if "open" in entry and claiming:
        yield f"{rule} is listed as open, but {claiming[0]} claims it"
    if "tests" in entry and not entry["tests"]:
        yield f"{rule} is neither tested nor open"
    for name in entry.get("tests", []):
        if name not in claiming:
            yield f"{rule} is to be proven by {name}, which does not exist or does not claim it"


def updated(rules: list[str], claims: Mapping[str, list[str]], table: Table) -> Table:
    """The table as the tests now have it, with the reasons that stand in it."""
    result: Table = {}
    for rule in rules:
        before = table.get(rule, {"open": NOT_BUILT_YET})
        if rule not in claims:
            # A rule that has lost its last test is not open of itself: somebody has to say so.
            result[rule] = before
            continue
        result[rule] = {"tests": sorted(claims[rule])}
        clause = before.get("open_clause", before.get("open", NOT_BUILT_YET))
        if clause != NOT_BUILT_YET:
            result[rule]["open_clause"] = clause
    return result


def written(table: Table) -> str:
    """The table as TOML, a rule to a section, so that a change shows as one."""
    sections = [TABLE_HEAD]
    for rule, entry in table.items():
        lines = [f"[{rule}]"]
        if "tests" in entry:
            lines += ["tests = [", *(f"    {json.dumps(name)}," for name in entry["tests"]), "]"]
        for key in ("open", "open_clause"):
            if key in entry:
                lines.append(f"{key} = {json.dumps(entry[key], ensure_ascii=False)}")
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def report(rules: list[str], claims: Mapping[str, list[str]], table: Table) -> Iterator[str]:
    """The rules with their tests, for a reader."""
    for rule in rules:
        entry = table.get(rule, {})
        waiting = [entry[key] for key in ("open", "open_clause") if key in entry]
        yield rule + (f"  open: {'; '.join(waiting)}" if waiting else "")
        yield from (f"    {name}" for name in claims.get(rule, []))


def main() -> int:
    rules, claims = rules_on_page(RULES_PAGE.read_text(encoding="utf-8")), claims_of(all_tests())
    table = read_table() if TABLE.exists() else {}
    if sys.argv[1:] == ["--write"]:
        before, table = table, updated(rules, claims, table)
        closed = [rule for rule in rules if "tests" in table[rule] and "open" in before.get(rule, {"open": ""})]
        print("no longer open, if the tests prove all of it:", ", ".join(closed) or "nothing")
        TABLE.write_text(written(table), encoding="utf-8")
    elif sys.argv[1:]:
        print("usage: python tests/rules_table.py [--write]", file=sys.stderr)
        return 2
    else:
        print("\n".join(report(rules, claims, table)))
    found = list(complaints(rules, claims, table))
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
