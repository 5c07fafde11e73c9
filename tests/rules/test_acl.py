"""The access rules: who gets in, and what is refused when the file is read."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.errors import BadAcl
from restmq.rules.acl import Access, Acl, Credentials, Decision

ALLOW, DENIED, PASSWORD = Decision.ALLOW, Decision.DENIED_ADDRESS, Decision.NEEDS_PASSWORD
LOCAL = "127.0.0.1"


def producer(*lines: str) -> Acl:
    return Acl.parse("\n".join(["[rest:producer]", *lines]))


def decide(acl: Acl, address: str = LOCAL, credentials: Credentials | None = None) -> Decision:
    return acl.decide(Access.PRODUCER, address, credentials)


def admitted(acl: Acl, *addresses: str) -> list[str]:
    """Those of the addresses that may come in."""
    return [address for address in addresses if decide(acl, address) is ALLOW]


def complaint(*lines: str) -> str:
    with pytest.raises(BadAcl) as caught:
        Acl.parse("\n".join(lines))
    text = str(caught.value)
    assert "\n" not in text
    return text


# -- hosts, as contract.md (a) and its bug 16 say -----------------------------------------


def test_an_empty_file_allows_everything() -> None:
    """acl_empty_file"""
    acl = Acl.parse("")
    assert not acl.restricts_anything
    assert decide(acl) is ALLOW
    assert not Acl.open().restricts_anything


def test_allowing_all_restricts_nothing() -> None:
    """acl_allow_all"""
    acl = producer("hosts_allow = all")
    assert not acl.restricts_anything
    assert decide(acl, "203.0.113.9") is ALLOW


def test_denying_all_denies_everybody() -> None:
    """acl_deny_all; the original let everybody in"""
    acl = producer("hosts_deny = all")
    assert acl.restricts_anything
    assert admitted(acl, LOCAL, "::1", "unix", "203.0.113.9", "nonsense") == []


def test_only_allowed_hosts_come_in_where_all_others_are_denied() -> None:
    """acl_allow_and_deny_all"""
    acl = producer("hosts_allow = 127.0.0.1", "hosts_deny = all")
    assert admitted(acl, LOCAL, "127.0.0.2") == [LOCAL]


def test_a_host_on_neither_list_stays_out() -> None:
    """acl_allow_other_deny_third; the original let it in"""
    acl = producer("hosts_allow = 10.0.0.1", "hosts_deny = 192.168.")
    assert admitted(acl, "10.0.0.1", LOCAL, "192.168.0.1") == ["10.0.0.1"]


def test_a_host_in_both_lists_is_allowed() -> None:
    """acl_same_in_both"""
    acl = producer("hosts_allow = 127.0.0.1", "hosts_deny = 127.0.0.1")
    assert decide(acl) is ALLOW
    acl = producer("hosts_allow = 10.0.0.0/8", "hosts_deny = 10.6.6.6")
    assert decide(acl, "10.6.6.6") is ALLOW


def test_an_exception_without_effect_is_remarked_on() -> None:
    """Who writes that deny line means something by it, and should be told."""
    acl = producer("hosts_allow = 10.0.0.0/8", "hosts_deny = 10.6.6.6")
    assert len(acl.remarks) == 1
    assert acl.remarks[0].startswith("[rest:producer] hosts_deny has no effect")
    assert not producer("hosts_allow = 127.0.0.1", "hosts_deny = all").remarks
    assert not producer("hosts_allow = 127.0.0.1", "hosts_deny = 127.0.0.1").remarks
    assert not producer("hosts_allow = 10.0.0.1", "hosts_deny = 192.168.").remarks


def test_an_address_is_that_address_only() -> None:
    """acl_allow_local, acl_deny_local; the original took it for a prefix"""
    assert admitted(producer("hosts_allow = 127.0.0.1"), LOCAL, "127.0.0.10") == [LOCAL]
    assert admitted(producer("hosts_deny = 127.0.0.1"), LOCAL, "127.0.0.10") == ["127.0.0.10"]


def test_allow_all_beside_a_deny_list_leaves_the_deny_list_in_force() -> None:
    """`all` in hosts_allow is the same as no hosts_allow."""
    acl = producer("hosts_allow = all", "hosts_deny = 192.168.0.")
    assert admitted(acl, LOCAL, "192.168.0.9") == [LOCAL]
    assert admitted(producer("hosts_allow = all", "hosts_deny = all"), LOCAL) == []


@pytest.mark.parametrize(
    ("hosts", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("10.0.0.0/255.0.0.0", "10.255.0.1", "11.0.0.1"),
        ("192.168.", "192.168.200.1", "192.169.0.1"),
        ("10.", "10.1.2.3", "100.1.2.3"),
        ("10.1.2.", "10.1.2.3", "10.1.20.3"),
        ("0.0.0.0/0", "8.8.8.8", "::1"),
        ("::1", "::1", "::2"),
        ("::1", "0:0:0:0:0:0:0:1", LOCAL),
        ("fd00::/8", "fdff::9", "fe80::1"),
        ("fe80::/10", "fe80::1%eth0", "fd00::1"),
        ("::ffff:10.0.0.0/104", "10.1.1.1", "11.0.0.1"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", "::ffff:10.0.0.2"),
        ("127.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1"),
        ("10.0.0.1 10.0.0.2", "10.0.0.2", "10.0.0.3"),
        ("10.0.0.1, 10.0.0.2,10.0.0.3", "10.0.0.3", "10.0.0.4"),
        ("10.0.0.1\n  10.0.0.2", "10.0.0.2", "10.0.0.3"),
        ("10.0.0.1 ; the office", "10.0.0.1", "10.0.0.2"),
        ("10.0.0.1 # the office", "10.0.0.1", "10.0.0.2"),
        ("unix", "unix", LOCAL),
        ("127.0.0.1", LOCAL, "unix"),
        ("ALL", "unix", None),
        ("UNIX", "unix", "unix:"),
    ],
)
def test_ways_to_write_hosts(hosts: str, inside: str, outside: str | None) -> None:
    allowed = producer(f"hosts_allow = {hosts}")
    assert decide(allowed, inside) is ALLOW
    assert outside is None or decide(allowed, outside) is DENIED
    denied = producer(f"hosts_deny = {hosts}")
    assert decide(denied, inside) is DENIED
    if outside is not None and outside != "unix:":
        assert decide(denied, outside) is ALLOW


@pytest.mark.parametrize("address", ["", "nonsense", "10.0.0.1 ", "010.0.0.1", "1.2.3", "unix "])
def test_who_has_no_readable_address_stays_out_of_a_section_with_a_host_rule(address: str) -> None:
    assert decide(producer("hosts_allow = 10.0.0.0/8"), address) is DENIED
    assert decide(producer("hosts_deny = 10.0.0.0/8"), address) is DENIED
    assert decide(producer("username = u", "password = p"), address) is PASSWORD


def test_sections_do_not_touch_each_other() -> None:
    """One kind of client is restricted; the other three are not."""
    for access in Access:
        if access is Access.NONE:
            continue
        acl = Acl.parse(f"[{access.value}]\nhosts_deny = all")
        open_ones = [each for each in Access if acl.decide(each, LOCAL, None) is ALLOW]
        assert open_ones == [each for each in Access if each is not access]


# -- passwords ----------------------------------------------------------------------------


def test_name_and_password_must_both_be_right() -> None:
    """acl_basic_noauth, acl_basic_right, acl_basic_wrong"""
    acl = producer("username = prod", "password = pw1")
    assert decide(acl) is PASSWORD
    assert decide(acl, credentials=("prod", "pw1")) is ALLOW
    for wrong in (("prod", "pw2"), ("cons", "pw1"), ("", ""), ("prod", "pw1 "), ("PROD", "pw1")):
        assert decide(acl, credentials=wrong) is PASSWORD


def test_an_allowed_host_must_still_show_its_password() -> None:
    """acl_allow_local_with_password"""
    acl = producer("hosts_allow = 127.0.0.1", "username = u", "password = p")
    assert decide(acl) is PASSWORD
    assert decide(acl, credentials=("u", "p")) is ALLOW
    assert decide(acl, "127.0.0.2", ("u", "p")) is DENIED


@pytest.mark.parametrize("password", ["a%(b)c", "%", "a=b:c", "a#b", "a # b", '"q"', "grüße €"])
def test_a_password_is_what_stands_in_the_line(password: str) -> None:
    """`%(` once left the section open: nothing in a value has a meaning."""
    acl = producer("username = ü", f"password =  {password} ")
    assert decide(acl) is PASSWORD
    assert decide(acl, credentials=("ü", password)) is ALLOW


def test_credentials_that_are_no_valid_text_are_wrong_and_nothing_worse() -> None:
    assert decide(producer("username = u", "password = p"), credentials=("u", "\ud800")) is PASSWORD


def test_a_client_that_may_do_one_of_several_things_is_let_through() -> None:
    """A route whose access hangs on the body asks before it reads the body."""
    both = (Access.PRODUCER, Access.CONSUMER)
    acl = Acl.parse("[rest:producer]\nhosts_deny=all\n[rest:consumer]\nusername=u\npassword=p")
    assert acl.decide_any(both, LOCAL, ("u", "p")) is ALLOW
    assert acl.decide_any(both, LOCAL, None) is PASSWORD
    assert acl.decide_any((Access.PRODUCER,), LOCAL, ("u", "p")) is DENIED
    assert Acl.open().decide_any(both, LOCAL, None) is ALLOW


# -- mistakes in the file -----------------------------------------------------------------


def test_a_user_name_without_a_password_is_a_mistake() -> None:
    """acl_username_only; the original was open"""
    text = complaint("[rest:producer]", "", "username = u")
    assert text == "line 3, [rest:producer] username: needs a password beside it"
    text = complaint("[rest:producer]", "password = hush")
    assert text == "line 2, [rest:producer] password: needs a username beside it"


def test_an_unknown_section_names_those_there_are() -> None:
    text = complaint("# hello", "[rest:producers]")
    assert text == (
        "line 2: unknown section 'rest:producers', allowed are"
        " rest:producer, rest:consumer, comet:consumer, websocket:consumer"
    )
    assert complaint("[DEFAULT]").startswith("line 1: unknown section 'DEFAULT'")
    assert complaint("[]").startswith("line 1: unknown section ''")


def test_an_unknown_key_names_those_there_are() -> None:
    text = complaint("[rest:consumer]", "host_allow = 127.0.0.1")
    assert text == (
        "line 2, [rest:consumer]: unknown key 'host_allow', allowed are"
        " hosts_allow, hosts_deny, username, password"
    )


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("10", "write '10.'"),
        ("192.168", "write '192.168.'"),
        ("127.0.0", "write '127.0.0.'"),
        ("10.0.0.1/8", "did you mean 10.0.0.0/8?"),
        ("localhost", "is no address"),
        ("10.0.0.256", "is no address"),
        ("10.0.0.1.", "is no address"),
        ("300.", "is no address"),
        ("10.0.0.0/33", "is no address"),
        ("fe80:", "is no address"),
        ("fe80::1%eth0", "names an interface"),
        ("*", "is no address"),
        ("%(hosts)s", "names an interface"),
        ("!10.0.0.1", "is no address"),
    ],
)
def test_a_host_that_is_none_is_a_mistake_with_a_hint(word: str, hint: str) -> None:
    for key in ("hosts_allow", "hosts_deny"):
        text = complaint("[comet:consumer]", f"{key} = 127.0.0.1 {word}")
        assert text.startswith(f"line 2, [comet:consumer] {key}: {word!r} ")
        assert hint in text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hosts_allow =", "hosts_allow: is empty"),
        ("hosts_deny = ,", "hosts_deny: is empty"),
        ("hosts_deny = ; nobody", "hosts_deny: is empty"),
        ("username =\npassword = p", "username: is empty"),
        ("username = u\npassword =", "password: is empty"),
        ("username = a:b\npassword = p", "can't hold a colon"),
        ("username = u\npassword = p ; the old one", "holds ' ;'"),
        ("username = u\n  password = p", "no key may be indented"),
        ("hosts_allow = 127.0.0.1\n  password = p", "'password' is no address"),
        ("hosts_allow 127.0.0.1", "not of the form key = value"),
        ("= 127.0.0.1", "unknown key ''"),
        ("hosts_deny = all\nHOSTS_DENY = 10.", "is there twice, first in line 2"),
        ("[rest:producer]", "section [rest:producer] is there twice"),
        ("[rest:consumer", "a section is a name in brackets"),
        ("[rest:consumer] hosts_deny = all", "a section is a name in brackets"),
    ],
)
def test_what_is_not_understood_is_a_mistake_and_never_an_open_door(line: str, says: str) -> None:
    assert says in complaint("[rest:producer]", line)


def test_a_key_before_any_section_is_a_mistake() -> None:
    assert complaint("hosts_deny = all").startswith("line 1: a [section] must come first")


def test_no_complaint_shows_a_password() -> None:
    for lines in (
        ["password = s3cret"],
        ["username = a:b", "password = s3cret"],
        ["username = u", "password = s3cret ; x"],
        ["username = u", "password = s3cret", "  more"],
        ["username = u", "password s3cret"],
        ["hosts_allow = 10.0.0.1", " password = s3cret"],
    ):
        assert "s3cret" not in complaint("[rest:producer]", *lines)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_any_line_ending_and_a_byte_order_mark_are_read(newline: str) -> None:
    """An old Mac's file must not be one long comment."""
    text = newline.join(["\ufeff# rules", "[rest:producer] ; them", "Hosts_Deny: all", ""])
    assert decide(Acl.parse(text)) is DENIED


# -- laws ---------------------------------------------------------------------------------

v4 = st.ip_addresses(v=4)
prefixes = st.integers(0, 32)


def network(address: IPv4Address, prefix: int) -> IPv4Network:
    return IPv4Network((address, prefix), strict=False)


@given(v4, prefixes, v4)
def test_law_a_network_lists_the_addresses_it_holds(
    base: IPv4Address, prefix: int, client: IPv4Address
) -> None:
    net = network(base, prefix)
    listed = client in net
    assert (decide(producer(f"hosts_allow = {net}"), str(client)) is ALLOW) == listed
    assert (decide(producer(f"hosts_deny = {net}"), str(client)) is DENIED) == listed


@given(v4, prefixes, v4)
def test_law_a_mapped_address_is_its_ipv4_address(
    base: IPv4Address, prefix: int, client: IPv4Address
) -> None:
    acl = producer(f"hosts_allow = {network(base, prefix)}")
    assert decide(acl, f"::ffff:{client}") is decide(acl, str(client))


@given(st.ip_addresses())
def test_law_an_address_lists_itself_and_no_neighbour(address: IPv4Address | IPv6Address) -> None:
    acl = producer(f"hosts_allow = {address}")
    assert decide(acl, str(address)) is ALLOW
    neighbour = type(address)(int(address) ^ 1)
    assert decide(acl, str(neighbour)) is DENIED


hosts = st.lists(
    st.one_of(
        v4.map(str),
        st.builds(lambda a, p: str(network(a, p)), v4, prefixes),
        st.sampled_from(["all", "unix", "127.", "::1", "fd00::/8"]),
    ),
    min_size=1,
).map(" ".join)
clients = st.one_of(v4.map(str), st.sampled_from(["unix", LOCAL, "::1", "?"]))


@given(st.none() | hosts, st.none() | hosts, clients)
def test_law_allow_decides_if_it_is_there_and_deny_if_not(
    allow: str | None, deny: str | None, client: str
) -> None:
    lines = [f"{k} = {v}" for k, v in (("hosts_allow", allow), ("hosts_deny", deny)) if v]
    both = decide(producer(*lines), client)
    if allow and "all" not in allow:
        assert both is decide(producer(f"hosts_allow = {allow}"), client)
    elif deny:
        assert both is decide(producer(f"hosts_deny = {deny}"), client)
    else:
        assert both is ALLOW


words = st.text(st.characters(codec="utf-8", exclude_characters="\r\n:;"), min_size=1).filter(
    lambda text: text == text.strip()
)


@given(words, words, words, words)
def test_law_only_the_very_same_name_and_password_open(
    name: str, password: str, other_name: str, other_password: str
) -> None:
    acl = producer(f"username = {name}", f"password = {password}")
    assert decide(acl, credentials=(name, password)) is ALLOW
    same = (other_name, other_password) == (name, password)
    assert (decide(acl, credentials=(other_name, other_password)) is ALLOW) == same


lines = st.sampled_from(
    [
        "[rest:producer]",
        "[rest:consumer]",
        "[rest:x]",
        "hosts_allow = 10.",
        "hosts_deny = all",
        "hosts_deny =",
        "username = u",
        "password = p",
        "  password = p",
        "junk",
        "# no",
        "hosts_allow = 1.2.3.4/8",
    ]
)


@given(st.lists(lines) | st.text().map(lambda text: [text]))
def test_law_any_text_is_rules_or_one_line_of_complaint(text: list[str]) -> None:
    outcome = attempt("\n".join(text))
    if isinstance(outcome, BadAcl):
        assert re.fullmatch(r"line \d+.*", str(outcome))
    else:
        assert outcome.restricts_anything == any(
            outcome.decide(access, "203.0.113.1", None) is not ALLOW for access in Access
        )


def attempt(text: str) -> Acl | BadAcl:
    try:
        return Acl.parse(text)
    except BadAcl as error:
        return error
