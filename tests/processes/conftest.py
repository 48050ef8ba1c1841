"""What the tests of the example cluster share."""

import importlib
from typing import Any

import pytest

from tests.processes.programs import CLUSTER


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the example, as the example itself does."""
    monkeypatch.syspath_prepend(str(CLUSTER.parent))
    return lambda name: importlib.import_module(f"cluster_demo.{name}")
