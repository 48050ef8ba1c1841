"""The rules page, the tests and the table of rules agree, and would not go unnoticed if they did not."""

import tomllib

import pytest

from tests import rules_table

PAGE = "# Rules\n\n- **E1** One.\n- **R2** Two,\n  with **R9** in passing.\n"


def test_table_agrees_with_page_and_tests() -> None:
    """Every rule of the page is proven by tests that exist, or open with a reason."""
    rules = rules_table.rules_on_page(rules_table.RULES_PAGE.read_text(encoding="utf-8"))
    claims = rules_table.claims_of(rules_table.all_tests())
    found = list(rules_table.complaints(rules, claims, rules_table.read_table()))
    assert found == [], "`python tests/rules_table.py --write` brings the table up to date"


def test_every_test_says_what_it_proves() -> None:
    """Each test function has a docstring, for which its rules are looked up."""
    assert [test.name for test in rules_table.all_tests() if not test.docstring] == []


def test_rules_on_page_takes_list_items_only() -> None:
    """A rule is stated by the list item that it opens, not wherever its id stands."""
    assert rules_table.rules_on_page(PAGE) == ["E1", "R2"]


def test_claimed_rules_stand_alone_in_parentheses() -> None:
    """Ids count in parentheses of their own; a section of the paper and a passing mention do not."""
    docstring = "Figure 8 is R1 (paper 5.4.2), as it must be (R2) and also (S3, E10) but (not W1)."
    assert rules_table.claimed_rules(docstring) == ("R2", "S3", "E10")


def test_tests_in_finds_functions_methods_and_coroutines() -> None:
    """Tests are found at the top of a file and in classes, asynchronous ones too, and helpers are not."""
    source = (
        'def test_a():\n    """A (E1)."""\n'
        'class TestB:\n    async def test_c(self):\n        """C (R2)."""\n'
        'def helper():\n    """H (W1)."""\n'
        "def test_d(): pass\n"
    )
    assert [(test.name, test.rules) for test in rules_table.tests_in(source, "tests/t.py")] == [
        ("tests/t.py::test_a", ("E1",)),
        ("tests/t.py::TestB::test_c", ("R2",)),
        ("tests/t.py::test_d", ()),
    ]


@pytest.mark.parametrize(
    ("claims", "table", "complaint"),
    [
        ({}, {}, "E1 is not in the table"),
        ({}, {"E1": {"tests": []}}, "E1 is neither tested nor open"),
        ({}, {"E1": {"open": " "}}, "E1 gives no reason in `open`"),
        ({"E1": ["t"]}, {"E1": {"tests": ["t"], "open_clause": ""}}, "E1 gives no reason in `open_clause`"),
        ({"E1": ["t"]}, {"E1": {"open": "later"}}, "E1 is listed as open, but t claims it"),
        ({"E1": ["t"]}, {"E1": {"tests": ["t"], "open": "later"}}, "E1 must have either `tests` or `open`"),
        ({"E1": ["t"]}, {"E1": {"tests": ["u"]}}, "E1 is to be proven by u, which does not exist"),
        ({"Z9": ["t"]}, {"E1": {"open": "later"}}, "t claims Z9, which docs/rules.md does not state"),
        ({}, {"E1": {"open": "later"}, "Z9": {"open": "later"}}, "the table lists Z9"),
    ],
)
def test_complaints_each_disagreement(claims: dict[str, list[str]], table: rules_table.Table, complaint: str) -> None:
    """Each way in which page, tests and table can disagree is found, and is the only thing found."""
    found = list(rules_table.complaints(["E1"], claims, table))
    assert len(found) == 1
    assert found[0].startswith(complaint)


def test_complaints_rule_stated_twice() -> None:
    """A rule that the page states twice is found."""
    table: rules_table.Table = {"E1": {"open": "later"}}
    assert list(rules_table.complaints(["E1", "E1"], {}, table)) == ["docs/rules.md states E1 twice"]


def test_complaints_none_when_all_agree() -> None:
    """Tested, tested in part, and open rules pass."""
    table: rules_table.Table = {
        "E1": {"tests": ["t"]},
        "R2": {"tests": ["t"], "open_clause": "while joint"},
        "M1": {"open": "later", "open_clause": "while joint"},
    }
    assert list(rules_table.complaints(["E1", "R2", "M1"], {"E1": ["t", "u"], "R2": ["t"]}, table)) == []


def test_updated_adds_claims_and_keeps_reasons() -> None:
    """New claims are taken in, reasons are kept, and a rule that lost its tests is not reopened."""
    not_built_yet = rules_table.NOT_BUILT_YET
    table: rules_table.Table = {
        "E1": {"open": not_built_yet},
        "E2": {"open": not_built_yet, "open_clause": "while joint"},
        "E3": {"tests": ["gone"], "open_clause": "while joint"},
        "E4": {"tests": ["gone"]},
        "M1": {"open": "later"},
    }
    claims = {"E1": ["u", "t"], "E2": ["t"], "E3": ["t"]}
    assert rules_table.updated(["E1", "E2", "E3", "E4", "M1", "M2"], claims, table) == {
        "E1": {"tests": ["t", "u"]},
        "E2": {"tests": ["t"], "open_clause": "while joint"},
        "E3": {"tests": ["t"], "open_clause": "while joint"},
        "E4": {"tests": ["gone"]},
        "M1": {"open": "later"},
        "M2": {"open": not_built_yet},
    }


def test_written_is_read_back() -> None:
    """What is written as TOML reads back as it was."""
    table: rules_table.Table = {
        "E1": {"tests": ["tests/t.py::test_a", "tests/t.py::test_b"], "open_clause": "while “joint”"},
        "M1": {"open": 'a "later" part'},
    }
    assert tomllib.loads(rules_table.written(table)) == table
