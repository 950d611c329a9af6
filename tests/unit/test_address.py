"""UDP addresses: never mapped, and printable."""

import pytest

from cryprq.address import Address


@pytest.mark.parametrize(
    ("sockaddr", "address", "text"),
    [
        (("192.0.2.1", 5), Address("192.0.2.1", 5), "192.0.2.1:5"),
        (("::ffff:192.0.2.1", 5, 0, 0), Address("192.0.2.1", 5), "192.0.2.1:5"),
        (("2001:db8::1", 5, 7, 0), Address("2001:db8::1", 5), "[2001:db8::1]:5"),
        (("fe80::1", 5, 0, 3), Address("fe80::1", 5, 3), "[fe80::1%3]:5"),
    ],
)
def test_address_is_never_mapped(sockaddr: tuple[object, ...], address: Address, text: str) -> None:
    assert Address.from_sockaddr(sockaddr) == address
    assert str(address) == text
