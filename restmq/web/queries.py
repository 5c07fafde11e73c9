"""The parameters of a query, as they stand there: names and values, decoded."""

from __future__ import annotations

from urllib.parse import parse_qsl


def query_pairs(query: str, most: int) -> list[tuple[str, str]]:
    """The parameters in order, blank ones too (WHATWG URL, section 5.1, but strict).

    Raises UnicodeDecodeError for what is no UTF-8, and ValueError for more than ``most``.
    """
    if "%" in query or "+" in query or query.count("&") >= most:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=most)
    # Nothing is encoded: what most pollers send with each request.
    found = []
    for text in query.split("&"):
        if text:
            name, _, value = text.partition("=")
            found.append((name, value))
    return found
