"""A program that holds a data plane, and nothing else that knows its keys: they come through a pipe.

    python -m tests.rigs.plane_host TUN UDP PEER SUITE EXTENSION

TUN and UDP are descriptors, PEER is the peer's UDP port on loopback, EXTENSION a file (``-``: the one of the package).
Commands are a letter and the number of an epoch, a byte, which is also both of its receiver indices; each is answered
by a dot.
"""

import os
import sys
import time

from tests.rigs.other_compiler import use_extension

SECRETS = 88
"""Bytes that follow ``i``: key and IV of the one lane of either direction."""


def main() -> None:
    tun, udp, peer, suite = (int(word) for word in sys.argv[1:5])
    if sys.argv[5] != "-":
        use_extension(sys.argv[5])
    from cryprq import _fastpath
    from cryprq.address import Address, Local

    plane = _fastpath.Plane([tun], [[udp]], mtu=1420, offloads=_fastpath.OFFLOADS)
    handle = plane.add_peer()
    plane.set_routes([("10.0.0.2/32", handle)])
    plane.set_endpoint(handle, Address("127.0.0.1", peer))
    plane.start()
    command = bytearray(2)
    while os.readv(0, [command]) == 2:
        number = command[1]
        if command[:1] == b"i":
            tx, rx = bytearray(SECRETS // 2), bytearray(SECRETS // 2)
            assert os.readv(0, [tx, rx]) == SECRETS
            plane.install(
                handle, number=number, suite=suite, rx_index=number, tx_index=number, tx_secrets=tx, rx_secrets=rx,
                lifetime=600,
            )  # fmt: skip
            plane.activate(number)
            plane.promote(number)
        elif command[:1] == b"j":  # the next datagram, as one that went astray
            record = os.read(0, 2048)
            plane.inject(record, Address("127.0.0.1", peer), Local())
        elif command[:1] == b"r":
            plane.remove(number)
        elif command[:1] == b"w":  # until so many epochs are left
            while plane.live_epochs() != number:
                plane.events()
                time.sleep(0.001)
        os.write(1, b".")
    plane.stop()


if __name__ == "__main__":
    main()
