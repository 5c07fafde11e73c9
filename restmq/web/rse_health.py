"""``/e/health``: whether events can be served, for monitors made for RSE.

Plain it is ``OK``; ``verbose`` makes it a report. The member ``mongo`` keeps its name from RSE, whose
store was one; here it tells of the store there is.
"""

from __future__ import annotations

import platform
from typing import Any, Final

import orjson
from twisted.internet.defer import TimeoutError as TimedOut

import twisted
from restmq import __version__
from restmq.core.broker import Broker
from restmq.errors import StoreError
from restmq.event import MAIN_LOG, EventPage, LogInfo
from restmq.rules.selection import Selection
from restmq.web.admin import PATIENCE_SECONDS
from restmq.web.endpoint import Access, Reply, endpoint
from restmq.web.rse import RseEndpoint
from restmq.web.rse_json import JSON, created_at
from restmq.web.rse_request import is_true, read_query

TEXT: Final = "text/plain; charset=utf-8"
FLAGS: Final = ("verbose", "profile_db", "validate_db")
SLOW_SECONDS: Final = 1.0
LOOKED_AT: Final = 500
TOPICS_LOOKED_AT: Final = 10
"""Anybody may ask for it, so it must cost little."""


class RseHealth(RseEndpoint):
    """``/e/health``."""

    @endpoint(Access.NONE)
    async def get(self) -> Reply:
        """``OK``, or a report; 503 when the store does not answer in time."""
        given = read_query(self.request.query, FLAGS)
        wants = {name: is_true(given.get(name, "")) for name in FLAGS}
        broker = self.broker
        started = broker.clock.seconds()
        try:
            await broker.ping().addTimeout(PATIENCE_SECONDS, broker.clock)
        except (StoreError, TimedOut):
            return self.error(503, "the store does not answer")
        if not wants["verbose"]:
            return Reply(200, b"OK\n", TEXT, no_store=True)
        took = broker.clock.seconds() - started
        report = await self._report(broker, took, wants)
        return Reply(
            200, orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n", JSON, no_store=True
        )

    head = get

    async def _report(self, broker: Broker, took: float, wants: dict[str, bool]) -> dict[str, Any]:
        log, facts = await broker.events.health(MAIN_LOG), await broker.store_facts()
        report: dict[str, Any] = {
            "rse": {
                "test_mode": self.settings.events_open,
                "event_count": log.events,
                "id_generator": {"attempts": log.cursor.id, "retries": 0, "retry_rate": 0.0},
            },
            "mongo": {
                "server_info": {
                    "name": facts.get("server_name", "redis"),
                    "version": _version(facts),
                },
                "first_event": _moment(log.oldest, log.oldest_ms, log),
                "last_event": _moment(log.newest, log.newest_ms, log),
            },
            "versions": {
                "restmq": __version__,
                "python": platform.python_version(),
                "twisted": twisted.__version__,
                "store": _version(facts),
            },
            "warnings": [f"the store took {took:.1f} s to answer"] if took > SLOW_SECONDS else [],
        }
        if wants["profile_db"]:
            report["profiling"] = {
                "answer_ms": round(1000 * took, 3),
                "commands_per_second": int(facts.get("instantaneous_ops_per_sec", 0)),
                "used_memory": int(facts.get("used_memory", 0)),
            }
        if wants["validate_db"]:
            report["integrity"] = await _integrity(broker)
        return report


def _version(facts: dict[str, str]) -> str:
    return facts.get("valkey_version") or facts.get("redis_version", "")


def _moment(number: int, created_ms: int, log: LogInfo) -> dict[str, Any] | None:
    if not number:
        return None
    return {
        "id": number,
        "created_at": created_at(created_ms // 1000),
        "age": max(0, log.now_ms - created_ms) // 1000,
    }


async def _integrity(broker: Broker) -> dict[str, Any]:
    """Whether the newest events of some topics are found again by these, each once and in order."""
    page: EventPage = await broker.events.read(
        MAIN_LOG, Selection.everything(), None, LOOKED_AT, newest_first=True
    )
    errors, checked = [], 0
    for topic in list(dict.fromkeys(event.topic for event in page.events))[:TOPICS_LOOKED_AT]:
        seen = [event.id for event in page.events if event.topic == topic]
        found = await broker.events.read(
            MAIN_LOG, Selection.exact(topic), None, LOOKED_AT, newest_first=True
        )
        ids = [event.id for event in found.events]
        checked += len(seen)
        kept = {number for number in seen if ids and number >= ids[-1]}
        if sorted(set(ids), reverse=True) != ids or not kept <= set(ids):
            errors.append(f"the events of {topic} are not those of the log")
    return {"checked": checked, "errors": errors}
