"""Which of the name servers that gateways name are asked, and about what."""

from ipaddress import ip_address, ip_network

import pytest

from cryprq.dns import DnsSettings, domain, is_public_top
from cryprq.inner.name_servers import Choice, NameServers
from cryprq.peer_id import PeerId
from cryprq.protocol.parameters import Parameters

A, B = PeerId(bytes(32)), PeerId(b"\x01" * 32)
TUNNEL = (ip_network("10.9.0.0/24"), ip_network("fd00:9::/64"))
FULL = (ip_network("0.0.0.0/0"), ip_network("::/0"))
V4, V6, ELSEWHERE = ip_address("10.9.0.1"), ip_address("fd00:9::1"), ip_address("192.0.2.53")


def choose(told: dict[PeerId, Parameters], accept: str = "auto", full: PeerId | None = None) -> Choice:
    names = NameServers()
    for peer_id, parameters in told.items():
        names.take(peer_id, parameters)
    return names.choose(told, lambda peer_id: FULL if peer_id == full else TUNNEL, accept)


def reasons(choice: Choice) -> dict[str, str]:
    return {each.what: each.reason for each in choice.refused}


@pytest.mark.parametrize(
    ("accept", "full", "everything"), [("auto", None, False), ("auto", A, True), ("all", None, True), ("all", A, True)]
)
def test_all_names_are_a_gateways_only_by_this_nodes_own_configuration(
    accept: str, full: PeerId | None, everything: bool
) -> None:
    choice = choose({A: Parameters(name_servers=(V4, V6), search=("corp.example",))}, accept, full)
    assert choice == Choice(DnsSettings((V4, V6), ("corp.example",), everything), A)


def test_off_asks_nobody_and_says_nothing() -> None:
    assert choose({A: Parameters(name_servers=(V4, ELSEWHERE), search=("com",))}, "off", A) == Choice()


def test_without_domains_a_narrow_tunnel_asks_nothing_and_says_what_would() -> None:
    choice = choose({A: Parameters(name_servers=(V4, V6))})
    assert choice.settings is None
    assert "--accept-dns all" in reasons(choice)["10.9.0.1,fd00:9::1"]


def test_server_that_is_not_the_gateways_is_not_asked() -> None:
    told = Parameters(name_servers=(ELSEWHERE, V6), search=("corp.example",))
    choice = choose({A: told})
    assert choice.settings == DnsSettings((V6,), ("corp.example",))
    assert reasons(choice) == {"192.0.2.53": "it is not in a network of this gateway"}
    assert choose({A: told}, full=A).settings == DnsSettings((ELSEWHERE, V6), ("corp.example",), True)
    assert choose({A: Parameters(name_servers=(ELSEWHERE,), search=("corp.example",))}).settings is None


@pytest.mark.parametrize("accept", ["auto", "all"])
def test_top_level_domain_is_passed_over(accept: str) -> None:
    choice = choose({A: Parameters(name_servers=(V4,), search=("com", "corp.example", "lan"))}, accept)
    assert choice.settings is not None
    assert choice.settings.search == ("corp.example", "lan")
    assert reasons(choice) == {"com": "that would be a large part of all names"}


def test_one_gateway_is_asked_at_a_time_that_of_a_full_tunnel_first() -> None:
    told = {peer: Parameters(name_servers=(V4,), search=("corp.example",)) for peer in (A, B)}
    assert choose(told).peer_id == A
    choice = choose(told, full=B)
    assert (choice.peer_id, choice.settings) == (B, DnsSettings((V4,), ("corp.example",), True))
    assert [(each.peer_id, each.reason) for each in choice.refused] == [(A, "those of another gateway are in use")]


def test_only_gateways_with_a_session_count_and_the_last_m4_does() -> None:
    names = NameServers()
    names.take(A, Parameters(name_servers=(V4,), search=("corp.example",)))
    assert names.choose((), lambda _: TUNNEL, "auto") == Choice()
    names.take(A, Parameters())
    assert names.choose((A,), lambda _: TUNNEL, "auto") == Choice()


def test_domains_have_one_spelling() -> None:
    assert domain("Corp.Example.") == "corp.example"
    assert domain("9.10.in-addr.arpa") == "9.10.in-addr.arpa"
    for text in ("", ".", "a b", "a\n", "-a", "a..b", "b\u00fccher.example", "\u212a.example"):
        with pytest.raises(ValueError, match="is not a domain such as"):
            domain(text)
    assert is_public_top("com")
    assert not is_public_top("lan")
    assert not is_public_top("com.example")
