"""The example text is what its script says, and holds what is hard on a broker."""

from examples import make_lines
from tests.support import ROOT

TEXT = (ROOT / "examples" / "lines.txt").read_bytes()
LINES = TEXT.removesuffix(b"\n").split(b"\n")


def test_the_script_writes_the_very_file():
    assert make_lines.text() == TEXT


def test_each_line_can_be_a_message():
    assert len(LINES) == make_lines.LINES
    assert all(LINES)
    assert b"\r" not in TEXT


def test_it_has_what_is_hard_to_carry():
    assert {b"007", b"1.10", b"</b>", b"  padded on both sides  ", b"\t"} <= set(LINES)
    assert max(len(line) for line in LINES) > 2000
    assert any(not line.isascii() for line in LINES)
