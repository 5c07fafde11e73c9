"""What the tests of the whole system share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.clients import Streams


@pytest.fixture
def streams() -> Iterator[Streams]:
    """A reader of streaming consumers, which are all closed at the end."""
    with Streams() as reader:
        yield reader
