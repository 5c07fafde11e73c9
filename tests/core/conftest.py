"""``desk``: a queue on an empty store, see ``tests/core/desk.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.desk import Desk
from tests.support import ValkeyServer


@pytest.fixture
def desk(valkey: ValkeyServer) -> Iterator[Desk]:
    with valkey.client() as store:
        desk = Desk(store)
        yield desk
        for daemon in list(desk.channels):
            desk.deafen(daemon)
