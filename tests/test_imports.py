"""The house holds its shape: imports run downhill, and what we agreed never to write is absent.

Each rule has two tests: the package keeps it, and the rule would notice if it did not.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Iterable

import pytest

from tests import architecture
from tests.architecture import Source
from tests.support import ROOT

PACKAGE = architecture.read_package(ROOT, "restmq")
SCRIPTS = sorted((ROOT / "restmq" / "redis" / "lua").glob("*.lua"))


def planted(module: str, code: str) -> Source:
    return Source(module, ast.parse(textwrap.dedent(code)))


def all_of(rule: Callable[[Source], list[str]]) -> list[str]:
    return [found for source in PACKAGE for found in rule(source)]


def assert_notices(rule: Callable[[Source], list[str]], module: str, *snippets: str) -> None:
    for code in snippets:
        assert rule(planted(module, code)), f"not noticed in {module}: {code}"


def assert_accepts(rule: Callable[[Source], list[str]], module: str, *snippets: str) -> None:
    for code in snippets:
        assert not rule(planted(module, code)), f"wrongly noticed in {module}: {code}"


def test_the_package_is_read_at_all():
    names = {source.module for source in PACKAGE}
    assert {"restmq", "restmq.errors", "restmq.client.queues"} <= names


def test_imports_run_downhill():
    assert all_of(architecture.imports_uphill) == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("restmq.core.broker", "from restmq.web import rest"),
        ("restmq.core.broker", "import restmq.web.rest"),
        ("restmq.core.broker", "from ..web.rest import Queue"),
        ("restmq.core.broker", "def late():\n    from restmq.web import rest"),
        ("restmq.redis.keys", "from restmq import core"),
        ("restmq.rules.acl", "from restmq.redis.keys import queue_key"),
        ("restmq.names", "from restmq.rules.acl import Access"),
        ("restmq.web.rest", "from restmq.tap import Options"),
        ("restmq.new_module", "from restmq.dispatch import Add"),
    ],
)
def test_an_import_that_climbs_is_noticed(module, code):
    assert_notices(architecture.imports_uphill, module, code)


def test_an_import_that_goes_down_or_along_is_fine():
    assert_accepts(
        architecture.imports_uphill,
        "restmq.core.broker",
        "from restmq.redis import keys",
        "from restmq.core.delivery import Window",
        "from .delivery import Window",
        "import restmq.names",
        "import twisted.internet.defer",
    )


def test_nothing_imports_in_a_ring():
    assert architecture.import_cycles(PACKAGE) == []


def test_a_ring_of_imports_is_noticed():
    ring: Iterable[Source] = [
        planted("restmq.a", "from restmq.b import x"),
        planted("restmq.b", "from restmq import c"),
        planted("restmq.c", "import restmq.a"),
    ]
    assert "restmq.b" in architecture.import_cycles(ring)[0]


def test_the_client_stands_alone():
    assert all_of(architecture.client_independence) == []


def test_a_client_that_leans_on_the_server_is_noticed():
    rule = architecture.client_independence
    assert_notices(
        rule,
        "restmq.client.queues",
        "from restmq.errors import RestMQError",
        "from twisted.internet import defer",
        "import requests",
        "from ..names import queue_name",
    )
    assert_notices(rule, "restmq.web.rest", "from restmq.client import Queues")
    assert_accepts(rule, "restmq.client.queues", "import json", "from restmq.client import x")


def test_rules_and_values_touch_no_socket_clock_or_framework():
    assert all_of(architecture.impurities) == []


def test_a_rule_that_looks_at_the_clock_is_noticed():
    rule = architecture.impurities
    assert_notices(rule, "restmq.rules.acl", "import time", "from twisted.internet import defer")
    assert_accepts(rule, "restmq.core.broker", "from twisted.internet import defer")


def test_nothing_catches_everything():
    assert all_of(architecture.blind_excepts) == []


@pytest.mark.parametrize(
    "caught", ["", " Exception", " BaseException as e", " (OSError, Exception)"]
)
def test_catching_everything_is_noticed(caught):
    code = f"try:\n    work()\nexcept{caught}:\n    pass"
    assert_notices(architecture.blind_excepts, "restmq.core.broker", code)


def test_the_boundary_may_catch_a_bug_but_not_round_an_await():
    rule, module = architecture.blind_excepts, "restmq.web.endpoint"
    assert_accepts(rule, module, "try:\n    work()\nexcept BaseException:\n    report()")
    awaiting = "async def f():\n    try:\n        await work()\n    except BaseException: pass"
    assert_notices(rule, module, awaiting)


def test_suppressing_everything_is_noticed():
    rule = architecture.blind_excepts
    assert_notices(rule, "restmq.tap", "with contextlib.suppress(OSError, Exception): work()")
    assert_accepts(rule, "restmq.tap", "with suppress(OSError): work()")
    assert_accepts(rule, "restmq.tap", "try: work()\nexcept OSError: pass")


def test_the_broken_parts_of_cyclone_are_left_alone():
    assert all_of(architecture.forbidden_cyclone) == []


def test_a_broken_part_of_cyclone_is_noticed():
    rule = architecture.forbidden_cyclone
    assert_notices(
        rule,
        "restmq.web.channel",
        "import cyclone.websocket",
        "from cyclone import sse",
        "from cyclone.xmlrpc import XmlrpcRequestHandler",
        "from cyclone import redis",
        "from cyclone.httpserver import HTTPConnection",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from cyclone import httpserver",
    )
    assert_accepts(
        rule,
        "restmq.web.channel",
        "from cyclone import web, escape",
        "if TYPE_CHECKING:\n    from cyclone.httpserver import HTTPRequest",
    )


def test_only_the_wiring_picks_a_reactor():
    assert all_of(architecture.reactor_pickers) == []


def test_picking_a_reactor_elsewhere_is_noticed():
    rule = architecture.reactor_pickers
    codes = "from twisted.internet import reactor", "import twisted.internet.reactor as clock"
    assert_notices(rule, "restmq.core.broker", *codes)
    assert_notices(rule, "restmq.core.broker", "def late():\n    " + codes[0])
    assert_accepts(rule, "restmq.tap", *codes)


def test_every_module_says_what_it_is_for():
    assert all_of(architecture.missing_docstring) == []


def test_a_module_without_a_docstring_is_noticed():
    assert_notices(architecture.missing_docstring, "restmq.silent", "x = 1", "# a comment only")
    assert_accepts(architecture.missing_docstring, "restmq.told", '"""Why."""')


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_every_script_says_its_purpose_keys_arguments_and_returns(path):
    assert architecture.lua_header_gaps(path.name, path.read_text("utf-8")) == []


def test_a_gap_in_a_scripts_header_is_noticed():
    whole = "#!lua\n-- Purpose: a\n-- Atomic: b\n-- KEYS: c\n-- ARGV: d\n-- Returns: e\nreturn 1\n"
    assert architecture.lua_header_gaps("whole.lua", whole) == []
    for word in architecture.LUA_HEADER:
        without = whole.replace(f"-- {word}: ", "-- ")
        assert word in architecture.lua_header_gaps("holed.lua", without)[0]


def test_a_header_below_the_code_does_not_count():
    late = "return 1\n-- Purpose: a\n-- Atomic: b\n-- KEYS: c\n-- ARGV: d\n-- Returns: e\n"
    assert len(architecture.lua_header_gaps("late.lua", late)) == len(architecture.LUA_HEADER)


def test_our_plugin_folder_does_not_hide_twisted():
    """An ``__init__.py`` there would be found in Twisted's place by who starts from this folder."""
    folders = ROOT / "twisted", ROOT / "twisted" / "plugins"
    assert not [folder for folder in folders if (folder / "__init__.py").exists()]
