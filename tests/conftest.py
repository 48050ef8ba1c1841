"""What holds for every test: the schedule can be repeated, and property tests are bounded.

Trio draws the order in which ready tasks run. Each test here runs under a schedule drawn from the run's seed
and the test's name; the run prints the seed, and `--schedule-seed` repeats it. Only what lives in memory is
repeated that way: threads, sockets and the real clock keep their own order.
"""

import os

# Importing hypothesis lets Trio's plugin for it turn on deterministic scheduling for the rest of the process:
# a test's schedules would depend on which other files were collected. Here the fixture below decides.
os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"

import random
import secrets

import hypothesis
import pytest
import trio._core._run

# Property tests cover pure code only. The same examples on each run: a failure today is a failure tomorrow.
hypothesis.settings.register_profile("project", derandomize=True, max_examples=100, deadline=None, database=None)
hypothesis.settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--schedule-seed",
        default=None,
        help="repeat the Trio schedules of the run that printed this seed (default: a new one)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.schedule_seed is None:
        config.option.schedule_seed = secrets.token_hex(4)


def pytest_report_header(config: pytest.Config) -> str:
    return f"schedules: --schedule-seed={config.option.schedule_seed}"


@pytest.fixture(autouse=True)
def repeatable_schedule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw this test's order of tasks from the run's seed and the test's name."""
    seed = f"{request.config.option.schedule_seed}:{request.node.nodeid}"
    # Both are private, and both are needed: the switch sorts ready tasks, then the generator shuffles them.
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
