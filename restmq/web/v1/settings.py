"""``/v1/queues/QUEUE/settings`` and ``/v1/profiles``: what queues do, one by one and by pattern (docs/settings.md)."""

from __future__ import annotations

from typing import Any, Final

from restmq.core.profiles import TooManyProfiles
from restmq.errors import BadRequest
from restmq.rules import queue_settings
from restmq.rules.profiles import MAX_ORDER, NAME_PATTERN, Profile, profile_name, read
from restmq.rules.queue_settings import Merged
from restmq.web.describe import CURSOR, STRING, describe, items, record, whole
from restmq.web.endpoint import Access, Refusal, Reply, endpoint
from restmq.web.v1.endpoint import V1Endpoint, named_queue, v1_name

TRUTH: Final = {"1": True, "true": True, "0": False, "false": False}
PROFILES_AT_ONCE: Final = 100
MAX_PROFILES_AT_ONCE: Final = 1000

SHOWN: Final = queue_settings.schema()
EXPLAINED: Final = queue_settings.schema(explain=True)
PATCH: Final = queue_settings.schema(nulls=True)
PROFILE: Final = {
    "pattern": {"type": "string", "minLength": 1, "maxLength": 255},
    "order": whole(-MAX_ORDER, MAX_ORDER),
    "settings": {"type": "object"},
}
PROFILE_NAME: Final = {"name": {"type": "string", "pattern": f"^{NAME_PATTERN}$"}}
NAMED_PROFILE: Final = record(PROFILE, name=STRING)
PROFILE_BODY: Final = record(
    {"order?": PROFILE["order"], "settings?": PATCH}, pattern=PROFILE["pattern"]
)


class Settings(V1Endpoint):
    """``/v1/queues/QUEUE/settings``."""

    @endpoint(Access.CONSUMER)
    @describe(
        query={"explain": {"enum": list(TRUTH)}},
        replies={200: {"anyOf": [SHOWN, EXPLAINED]}},
    )
    async def get(self, queue: str) -> Reply:
        """What the queue does; with ``explain=1`` where each setting comes from.

        For a queue that is not there: what it would do, were it made by ``/v1``.
        """
        given = self.given_in_query(("queue", "explain"))
        name, explain = named_queue(queue, given), given.truth("explain")
        return self._shown(await self.broker.queue_settings.look(name), explain)

    @endpoint(Access.PRODUCER)
    @describe(body=PATCH, replies={200: SHOWN})
    async def patch(self, queue: str) -> Reply:
        """Change what the body names, all of it or nothing; null: back to profile or default.

        Makes the queue if it is not there. The reply has all settings.
        """
        return await self._change(queue, replace=False)

    @endpoint(Access.PRODUCER)
    @describe(body=PATCH, replies={200: SHOWN})
    async def put(self, queue: str) -> Reply:
        """The body has all that is set on this queue itself, whatever was before."""
        return await self._change(queue, replace=True)

    async def _change(self, queue: str, *, replace: bool) -> Reply:
        name = named_queue(queue, self.given_in_query(("queue",)))
        changes = queue_settings.read(self.object(None), v1_name)
        changed = await self.broker.queue_settings.change(name, changes, replace=replace)
        return self._shown(changed)

    def _shown(self, merged: Merged, explain: bool = False) -> Reply:
        show = queue_settings.explained if explain else queue_settings.described
        return self.json(show(merged, self.settings.lease))


class Profiles(V1Endpoint):
    """``/v1/profiles``."""

    @endpoint(Access.CONSUMER)
    @describe(
        query={"limit": whole(1, MAX_PROFILES_AT_ONCE), "cursor": STRING},
        replies={200: record(profiles=items(NAMED_PROFILE), cursor=CURSOR)},
    )
    async def get(self) -> Reply:
        """All profiles by name."""
        given = self.query(("limit", "cursor"))
        limit = _limit(given.get("limit", [str(PROFILES_AT_ONCE)])[0])
        after = given.get("cursor", [""])[0]
        table = await self.broker.profiles.current()
        found = [profile for name, profile in table.profiles.items() if name > after]
        more = found[limit - 1].name if len(found) > limit else None
        return self.json({"profiles": [_named(p) for p in found[:limit]], "cursor": more})


class OneProfile(V1Endpoint):
    """``/v1/profiles/NAME``."""

    @endpoint(Access.CONSUMER)
    @describe(path=PROFILE_NAME, replies={200: NAMED_PROFILE})
    async def get(self, name: str) -> Reply:
        """The profile."""
        self.query(())
        table = await self.broker.profiles.current()
        profile = table.profiles.get(profile_name(name))
        if profile is None:
            raise Refusal(404, f"there is no profile {name!r}")
        return self.json(_named(profile))

    @endpoint(Access.PRODUCER)
    @describe(
        path=PROFILE_NAME, body=PROFILE_BODY, replies={200: NAMED_PROFILE, 201: NAMED_PROFILE}
    )
    async def put(self, name: str) -> Reply:
        """Make or replace the profile; when the reply is there it holds for all queues that are."""
        self.query(())
        profile = read(profile_name(name), self.object(None), v1_name)
        try:
            was = await self.broker.profiles.put(profile)
        except TooManyProfiles as error:
            raise Refusal(409, str(error)) from None
        return self.json(_named(profile), 200 if was else 201)

    @endpoint(Access.PRODUCER)
    @describe(path=PROFILE_NAME, replies={204: None})
    async def delete(self, name: str) -> Reply:
        """Take the profile away, if it is there; its queues go back to what holds without it."""
        self.query(())
        await self.broker.profiles.delete(profile_name(name))
        return Reply(204, headers=(("X-Request-Id", self.request_id),), no_store=True)


def _named(profile: Profile) -> dict[str, Any]:
    return {"name": profile.name, **profile.json()}


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_PROFILES_AT_ONCE):
        raise BadRequest(f"limit is a whole number from 1 to {MAX_PROFILES_AT_ONCE}, not {text!r}")
    return int(text)
