"""The shape of the package, checked on its source: who may import whom, and what may stand where.

House rule: every check is a plain function from a parsed module to a list of complaints, so that each is
shown to complain about a made-up module (the second half of this file) before it is believed about the real
ones (the first). Names are followed through import aliases, not through variables: the checks catch slips,
not sabotage.

The floors, lowest first. A module may import from its own floor and from any floor below, never in a circle.
A module that stands on no floor fails: whoever adds one decides where it belongs.
"""

import ast
import builtins
import graphlib
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import attrs
import pytest

PACKAGE = "trio_raft"
PACKAGE_DIRECTORY = Path(__file__).parent.parent / PACKAGE

# Module names here leave out the package: "_rules.log"; "" is the package's __init__.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("_errors", "_environment", "_lanes"),
    ("_records",),
    ("_messages",),
    ("_stored",),
    ("_journal_items", "_mistakes", "_config", "_strict", "_codec", "_values", "_tickets", "_rules"),
    ("abc", "_snapshot_events", "_events", "_event_hub"),
    ("_rules.tail",),
    ("_rules.bootstrap", "_rules.configuration", "_rules.log", "_rules.progress"),
    ("_rules.state",),
    ("_rules.request_vote", "_rules.append_entries", "_rules.install_snapshot", "_rules.reads"),
    ("_journal", "_handshake", "_transport", "_tcp", "_snapshot_work", "_storage", "_storage.*"),
    ("_first_start", "_follower", "_patience", "_snapshots"),
    ("_server",),
    ("_election", "_apply", "_bootstrap", "_peers", "_taking", "_receiving"),
    ("_sending", "_heartbeat", "_leader_loss", "_replication"),
    ("_leadership", "_startup", "_statistics"),
    ("_services",),
    ("_node", "_opening"),
    ("",),
    ("_tools", "_tools.*", "recovery", "__main__"),
    ("testing", "testing.*"),
)

# Handed to open_node, so nothing below it may choose one. `_storage.files` is the seam they stand on.
CONCRETE = ("_storage.memory", "_storage.wal", "_storage.snapshots", "_storage.snapshots_memory", "_tcp")

# The rules are arithmetic on state: they know the vocabulary, and nothing that could wait, draw or write.
RULES_MAY_IMPORT_OWN = ("_errors", "_records", "_messages", "_config", "_rules", "_rules.*")
RULES_MAY_IMPORT_FOREIGN = (
    "__future__",
    "attrs",
    "bisect",
    "collections",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "math",
    "operator",
    "typing",
)

# Time, chance and blocking work have one seam, so that a simulation can stand in for all three.
SEAM = (
    *("_environment", "_lanes"),
    *("testing._determinism", "testing._environment", "testing._network", "testing._streams", "testing._disk"),
)
ONLY_IN_THE_SEAM = (
    "trio.sleep*",
    "trio.current_time",
    "trio.move_on_*",
    "trio.fail_*",
    "trio.to_thread*",
    "trio.lowlevel.start_thread_soon",
    "trio.lowlevel.current_clock",
    "random",
    "secrets",
    "time",
    "datetime",
    "uuid",
    "os.urandom",
    "os.getrandom",
    "threading.Thread",
    "threading.Timer",
    "concurrent",
    "asyncio",
)

# One module touches files, so that a simulated disk can take its place. The configuration is only read, and
# before a node exists.
FILES = ("_storage.files",)
FILE_READERS = ("_config",)
FILE_READS = ("builtins.open", "io.open", ".read_bytes", ".read_text")
OS_FILE_FUNCTIONS = (
    *("access", "chmod", "close", "dup*", "fdopen", "fstat", "link", "listdir", "lseek", "makedirs", "mkdir"),
    *("fdatasync", "fsync", "ftruncate", "open", "posix_fadvise", "posix_fallocate", "pread*", "pwrite*"),
    *("read*", "remove*", "rename*", "replace", "rmdir", "scandir", "sendfile", "stat", "statvfs", "symlink"),
    *("sync", "truncate", "unlink", "utime", "write*"),
)
FILE_OPERATIONS = (
    *FILE_READS,
    ".touch",
    ".write_bytes",
    ".write_text",
    "fcntl",
    "mmap",
    "shutil",
    "tempfile",
    *(f"os.{name}" for name in OS_FILE_FUNCTIONS),
)

NEVER = (
    "pickle",
    "marshal",
    "shelve",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
)

# The edge of a node keeps every exception until all its tasks have ended, and raises it afterwards: Cancelled too. A
# lane's thread, in which nothing is cancelled, hands it to the caller.
KEEPS_EXCEPTIONS = ("_opening", "_services", "_lanes")

BUILTINS = frozenset(dir(builtins))

LONGEST_BODY = 70
LONGEST_MODULE = 400


# ------------------------------------------------------------------------------------- reading a module


@attrs.frozen
class Module:
    """One parsed source file, and what its names mean."""

    name: str
    tree: ast.Module
    line_count: int
    origins: Mapping[str, str]
    """What each imported name stands for: after `from os import fsync as f`, f is os.fsync."""

    @classmethod
    def parse(cls, name: str, source: str, *, is_package: bool = False) -> "Module":
        tree = ast.parse(source)
        origins: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    origins[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom):
                base = absolute_base(node, importer=name, is_package=is_package)
                for alias in node.names:
                    origins[alias.asname or alias.name] = f"{base}.{alias.name}"
        return cls(name=name, tree=tree, line_count=len(source.splitlines()), origins=origins)

    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, dotted name) of everything that is imported, wherever the import stands."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield node.lineno, self.origins[alias.asname or alias.name]

    def uses(self) -> Iterator[tuple[int, str]]:
        """(line, dotted name) of every import, and of each attribute, imported name or builtin in use.

        An attribute of something that was not imported, say of a call's value, is given as ".attribute".
        """
        yield from self.imports()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute):
                yield node.lineno, self.dotted(node) or f".{node.attr}"
            elif isinstance(node, ast.Name):
                if node.id in self.origins:
                    yield node.lineno, self.origins[node.id]
                elif node.id in BUILTINS:
                    yield node.lineno, f"builtins.{node.id}"

    def dotted(self, node: ast.expr) -> str | None:
        """The full name of an expression such as `trio.lowlevel.current_clock`, if it starts at an import."""
        if isinstance(node, ast.Name):
            return self.origins.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return None if base is None else f"{base}.{node.attr}"
        return None


def absolute_base(node: ast.ImportFrom, *, importer: str, is_package: bool) -> str:
    """The full name of the module that `from ... import` names, dots resolved."""
    if node.level == 0:
        return node.module or ""
    here = [PACKAGE, *(part for part in importer.split(".") if part)]
    here = here[: len(here) - node.level + (1 if is_package else 0)]
    return ".".join([*here, *([node.module] if node.module else [])])


def read_package() -> dict[str, Module]:
    """Every module of the package by its name."""
    modules = {}
    for path in sorted(PACKAGE_DIRECTORY.rglob("*.py")):
        parts = path.relative_to(PACKAGE_DIRECTORY).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = Module.parse(name, path.read_text(encoding="utf-8"), is_package=is_package)
    return modules


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def refers_to(dotted: str, patterns: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of these, or an attribute of one."""
    return any(fnmatchcase(dotted, pattern) or fnmatchcase(dotted, f"{pattern}.*") for pattern in patterns)


def own_imports(module: Module, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    """(line, module) for each of the package's modules that this one imports."""
    found: set[tuple[int, str]] = set()
    for line, dotted in module.imports():
        if dotted.partition(".")[0] == PACKAGE:
            name = dotted.removeprefix(PACKAGE).removeprefix(".")
            while name not in known and name:
                name = name.rpartition(".")[0]
            if name != module.name:
                found.add((line, name))
    yield from sorted(found)


# ------------------------------------------------------------------------------------------- the checks


def floor_of(name: str) -> int | None:
    """The number of a module's floor, or None; a name spelled out counts before a pattern."""
    for number, floor in enumerate(FLOORS):
        if name in floor:
            return number
    return next((number for number, floor in enumerate(FLOORS) if matches(name, floor)), None)


def check_floors(module: Module, known: frozenset[str]) -> list[str]:
    """It stands on a floor, and imports nothing from above."""
    floor = floor_of(module.name)
    if floor is None:
        return [f"{module.name} stands on no floor: add it to FLOORS"]
    complaints = []
    for line, imported in own_imports(module, known):
        imported_floor = floor_of(imported)
        if imported_floor is not None and imported_floor > floor:
            complaints.append(f"{module.name}:{line} imports upward: {imported or PACKAGE}")
    return complaints


def check_concrete(module: Module, known: frozenset[str]) -> list[str]:
    """Below the node, nobody outside the storage package chooses a store or a transport."""
    floor = floor_of(module.name)
    node_floor = floor_of("_node")
    if module.name.startswith("_storage") or floor is None or node_floor is None or floor >= node_floor:
        return []
    return [
        f"{module.name}:{line} chooses a concrete part: {imported}"
        for line, imported in own_imports(module, known)
        if matches(imported, CONCRETE)
    ]


def check_circles(modules: Mapping[str, Module]) -> list[str]:
    """No module reaches itself through its imports."""
    known = frozenset(modules)
    graph = {name: {other for _, other in own_imports(module, known)} for name, module in modules.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return ["circle: " + " imports ".join(name or PACKAGE for name in reversed(error.args[1]))]
    return []


def check_purity(module: Module, known: frozenset[str]) -> list[str]:
    """The rules never wait, and import nothing that could."""
    if not matches(module.name, ("_rules", "_rules.*")):
        return []
    complaints = [
        f"{module.name}:{node.lineno} is asynchronous"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    ]
    for line, dotted in module.imports():
        top = dotted.partition(".")[0]
        if top != PACKAGE and top not in RULES_MAY_IMPORT_FOREIGN:
            complaints.append(f"{module.name}:{line} is not pure: imports {dotted}")
    for line, imported in own_imports(module, known):
        if not matches(imported, RULES_MAY_IMPORT_OWN):
            complaints.append(f"{module.name}:{line} is not pure: imports {imported}")
    return complaints


def check_seam(module: Module) -> list[str]:
    """Time, chance and blocking work are asked of the environment."""
    if module.name in SEAM:
        return []
    complaints = [
        f"{module.name}:{line} goes round the environment: {dotted}"
        for line, dotted in module.uses()
        if refers_to(dotted, ONLY_IN_THE_SEAM)
    ]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if node.attr in ("deadline", "relative_deadline"):
                complaints.append(f"{module.name}:{node.lineno} goes round the environment: .{node.attr} =")
        elif isinstance(node, ast.Call) and module.dotted(node.func) == "trio.CancelScope":
            complaints += [
                f"{module.name}:{node.lineno} goes round the environment: CancelScope({keyword.arg}=)"
                for keyword in node.keywords
                if keyword.arg in ("deadline", "relative_deadline")
            ]
    return complaints


def check_files(module: Module) -> list[str]:
    """File operations stand in one module."""
    if module.name in FILES:
        return []
    allowed = FILE_READS if module.name in FILE_READERS else ()
    return [
        f"{module.name}:{line} touches files: {dotted}"
        for line, dotted in module.uses()
        if refers_to(dotted, FILE_OPERATIONS) and not refers_to(dotted, allowed)
    ]


def check_never(module: Module) -> list[str]:
    """Nothing runs data as code, and no safety check can be switched off."""
    complaints = [f"{module.name}:{line} uses {dotted}" for line, dotted in module.uses() if refers_to(dotted, NEVER)]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert):
            complaints.append(f"{module.name}:{node.lineno} asserts: raise instead, python -O removes it")
        elif isinstance(node, ast.ExceptHandler) and swallows_everything(module, node):
            complaints.append(f"{module.name}:{node.lineno} swallows BaseException: Cancelled must leave")
    return complaints


def swallows_everything(module: Module, handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches Cancelled, alone or among others, and raises nothing."""
    if module.name in KEEPS_EXCEPTIONS:
        return False
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {ast.unparse(item) if item else "BaseException" for item in caught}
    if not names & {"BaseException", "BaseExceptionGroup", "trio.Cancelled", "Cancelled"}:
        return False
    return not any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def check_length(module: Module) -> list[str]:
    """A body fits on a page or so, and a module is one idea."""
    complaints = []
    if module.line_count > LONGEST_MODULE:
        complaints.append(f"{module.name} has {module.line_count} lines, over {LONGEST_MODULE}")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            if length > LONGEST_BODY:
                complaints.append(f"{module.name}.{node.name} has {length} lines, over {LONGEST_BODY}")
    return complaints


# ------------------------------------------------------------------------------------ the real package

PACKAGE_MODULES = read_package()
KNOWN = frozenset(PACKAGE_MODULES)


@pytest.fixture(params=PACKAGE_MODULES, ids=lambda name: name or PACKAGE)
def module(request: pytest.FixtureRequest) -> Module:
    return PACKAGE_MODULES[request.param]


def test_floors_no_import_goes_upward(module: Module) -> None:
    """Each module stands on a floor and imports only from its own and those below."""
    assert check_floors(module, KNOWN) == []


def test_floors_concrete_parts_are_handed_in(module: Module) -> None:
    """No module below the node imports a concrete store or transport."""
    assert check_concrete(module, KNOWN) == []


def test_floors_no_circle() -> None:
    """No module imports itself through others."""
    assert check_circles(PACKAGE_MODULES) == []


def test_rules_are_pure(module: Module) -> None:
    """The rules neither wait nor import anything that could wait, draw or write."""
    assert check_purity(module, KNOWN) == []


def test_environment_is_the_only_seam(module: Module) -> None:
    """Time, chance and blocking work come from the environment alone."""
    assert check_seam(module) == []


def test_files_are_touched_in_one_module(module: Module) -> None:
    """File operations stand in the storage's file module alone."""
    assert check_files(module) == []


def test_nothing_runs_data_or_drops_a_check(module: Module) -> None:
    """No data is run as code, no check can be switched off, no handler swallows a cancellation (W5)."""
    assert check_never(module) == []


def test_bodies_and_modules_are_short(module: Module) -> None:
    """Function bodies and modules stay within their bounds."""
    assert check_length(module) == []


# --------------------------------------------------------------------------- the checks are able to fail

FAKE_KNOWN = frozenset(name for floor in FLOORS for name in floor if not name.endswith("*")) | {
    "_storage.wal",
    "_storage.memory",
    "_storage.files",
    "testing._network",
    "testing._disk",
}

CHECKS: dict[str, Callable[[Module], list[str]]] = {
    "floors": lambda module: check_floors(module, FAKE_KNOWN),
    "concrete": lambda module: check_concrete(module, FAKE_KNOWN),
    "purity": lambda module: check_purity(module, FAKE_KNOWN),
    "seam": check_seam,
    "files": check_files,
    "never": check_never,
    "length": check_length,
}

LONG_BODY = "def f():\n    '''Doc.'''\n" + "    x = 1\n" * LONGEST_BODY

REFUSED: list[tuple[str, str, str]] = [
    ("floors", "_novelty", "x = 1"),
    ("floors", "_rules.novelty", "x = 1"),
    ("floors", "_messages", "from trio_raft._config import Config"),
    ("floors", "_records", "from trio_raft import _messages"),
    ("floors", "_records", "from ._messages import Term"),
    ("floors", "_records", "import trio_raft._messages as m"),
    ("floors", "_server", "from trio_raft import open_node"),
    ("floors", "_server", "def late():\n    from trio_raft._leadership import lead"),
    ("floors", "_server", "if TYPE_CHECKING:\n    from trio_raft._opening import Node"),
    ("floors", "_rules.log", "from trio_raft._rules import state"),
    ("floors", "_rules.log", "from .state import State"),
    ("floors", "_rules.state", "from trio_raft._rules.append_entries import make"),
    ("floors", "_storage.wal", "from .. import _server"),
    ("floors", "_node", "from trio_raft.testing import MemoryNetwork"),
    ("concrete", "_server", "from trio_raft._storage.wal import FileLogStore"),
    ("concrete", "_leadership", "from trio_raft._storage import memory"),
    ("concrete", "_transport", "from trio_raft import _tcp"),
    ("purity", "_rules.log", "async def f():\n    pass"),
    ("purity", "_rules.log", "import trio"),
    ("purity", "_rules.log", "from random import Random"),
    ("purity", "_rules.log", "import time as t"),
    ("purity", "_rules.log", "import os.path"),
    ("purity", "_rules.log", "import logging"),
    ("purity", "_rules.log", "from trio_raft._environment import Clock"),
    ("seam", "_server", "import trio\nasync def f():\n    await trio.sleep(1)"),
    ("seam", "_server", "import trio as t\nasync def f():\n    await t.sleep_forever()"),
    ("seam", "_server", "from trio import move_on_after as patience"),
    ("seam", "_server", "import trio\ndeadline = trio.current_time() + 1"),
    ("seam", "_server", "import trio\nwith trio.fail_at(1):\n    pass"),
    ("seam", "_server", "import trio.to_thread"),
    ("seam", "_server", "from trio.to_thread import run_sync"),
    ("seam", "_server", "import trio\nscope = trio.CancelScope(deadline=3)"),
    ("seam", "_server", "def f(scope):\n    scope.deadline = 3"),
    ("seam", "_server", "def f(scope):\n    scope.deadline += 3"),
    ("seam", "_server", "import random"),
    ("seam", "_server", "from time import monotonic"),
    ("seam", "_server", "import os\nname = os.urandom(8)"),
    ("seam", "testing._cluster", "import random"),
    ("files", "_server", "with open('x') as file:\n    pass"),
    ("files", "_server", "import os\nos.fsync(3)"),
    ("files", "_storage.wal", "from os import open as o"),
    ("files", "_storage.wal", "from pathlib import Path\nPath('x').write_bytes(b'')"),
    ("files", "_storage.wal", "import fcntl"),
    ("files", "_config", "import os\nos.replace('a', 'b')"),
    ("never", "_codec", "import pickle"),
    ("never", "_codec", "from marshal import loads"),
    ("never", "_codec", "import shelve"),
    ("never", "_codec", "x = eval('1')"),
    ("never", "_codec", "exec('x = 1')"),
    ("never", "_server", "assert True"),
    ("never", "_server", "try:\n    pass\nexcept:\n    pass"),
    ("never", "_server", "try:\n    pass\nexcept (KeyError, BaseException):\n    x = 1"),
    ("never", "_server", "import trio\ntry:\n    pass\nexcept* trio.Cancelled:\n    x = 1"),
    ("length", "_server", LONG_BODY + "    x = 1\n"),
    ("length", "_server", "x = 1\n" * (LONGEST_MODULE + 1)),
]

ALLOWED: list[tuple[str, str, str]] = [
    ("floors", "_messages", "from trio_raft._records import Entry"),
    ("floors", "_messages", "from trio_raft import _records, _errors"),
    ("floors", "_storage.wal", "from .files import Files\nfrom .. import abc"),
    ("floors", "_rules.append_entries", "from trio_raft._rules import log, state"),
    ("floors", "testing._network", "import trio_raft"),
    ("concrete", "_node", "from trio_raft import _tcp\nfrom trio_raft._storage.wal import FileLogStore"),
    ("concrete", "_server", "from trio_raft._storage.files import Files"),
    ("purity", "_server", "import trio\nasync def f():\n    pass"),
    ("purity", "_rules.log", "import attrs\nfrom collections.abc import Sequence"),
    ("seam", "_environment", "import random, time, trio\nsleep = trio.sleep"),
    ("seam", "_server", "def f(clock, scope):\n    clock.sleep(1)\n    return scope.deadline"),
    ("seam", "_server", "import trio\nscope = trio.CancelScope(shield=True)"),
    (
        "seam",
        "_server",
        "def f(node, time):\n    random = node.random\n    return random, time",
    ),
    ("files", "_storage.files", "import os\nos.fsync(3)"),
    ("files", "_storage.wal", "def f(files, handle):\n    files.open('x')\n    files.fsync(handle)"),
    ("files", "_config", "from pathlib import Path\ntext = Path('x').read_text()"),
    ("never", "_server", "try:\n    pass\nexcept BaseException:\n    x = 1\n    raise"),
    ("never", "_server", "import re\npattern = re.compile('x')"),
    ("length", "_server", LONG_BODY),
]


@pytest.mark.parametrize(("check", "name", "source"), REFUSED)
def test_checks_complain(check: str, name: str, source: str) -> None:
    """Each check complains about a module that breaks its rule."""
    complaints = CHECKS[check](Module.parse(name, source))
    assert complaints != []
    assert all(complaint.startswith(name) for complaint in complaints)


@pytest.mark.parametrize(("check", "name", "source"), ALLOWED)
def test_checks_let_pass(check: str, name: str, source: str) -> None:
    """Each check is silent about a module that keeps its rule."""
    assert CHECKS[check](Module.parse(name, source)) == []


def test_check_circles_complains() -> None:
    """Two modules of one floor that import each other are a circle."""
    sources = {"_election": "from trio_raft import _apply", "_apply": "from . import _election"}
    complaints = check_circles({name: Module.parse(name, source) for name, source in sources.items()})
    assert len(complaints) == 1
    assert complaints[0].startswith("circle: ")


def test_module_parse_package_resolves_its_own_dots() -> None:
    """In a package's __init__, one dot is the package itself."""
    module = Module.parse("_rules", "from .log import Log", is_package=True)
    assert list(module.imports()) == [(1, "trio_raft._rules.log.Log")]
