#!/usr/bin/env bash
# A packet socket that was opened with a protocol receives from every interface until it is bound to one, and hands out
# afterwards what it received before.
#
#   socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), then bind() to an interface: between the two calls frames of all
#   interfaces are queued, and bind() does not take them out again. Whoever reads "what is on eth0" may first read
#   something of another interface. On a busy machine that is the rule, on a quiet one it happens once in many runs.
#
# packet(7) says that a socket receives "all packets of the specified protocol type" until it is bound; that they stay
# in the queue is left to the reader. It bites captures in tests: a check that no plaintext is on the cable finds the
# plaintext of the interface beside it. What helps: socket() with protocol 0, which receives nothing, and the protocol
# in bind().
#
# Seen on Linux 6.18.44:
#   opened with ETH_P_ALL, then bound to quiet0: 1 frame of loud0
#   opened with 0, bound to quiet0 with ETH_P_ALL: no frame of loud0
#
# Needs python3 and iproute2, and root or user namespaces. Exit status: 0 it is so, 1 it has changed, 2 it cannot run.
set -euo pipefail

if [[ ${1:-} != inside ]]; then
    namespaces=(--net)
    ((EUID == 0)) || namespaces+=(--user --map-root-user)
    unshare "${namespaces[@]}" true || exit 2
    exec unshare "${namespaces[@]}" "${BASH_SOURCE[0]}" inside
fi

for name in quiet loud; do
    ip link add "${name}0" type veth peer name "${name}1"
    ip link set "${name}1" up
    ip link set "${name}0" arp off up # after its peer: it sends at once
done
ip address add 192.0.2.1/24 dev loud0

echo "Linux $(uname -r)"
python3 - <<'PYTHON'
import socket
import sys

ETH_P_ALL = 0x0003
MARKER = b"a datagram that leaves by loud0"


def frames_of_loud0(protocol: int) -> int:
    """Opens a packet socket, lets a frame leave by loud0, binds the socket to quiet0, and counts what it then reads."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol)) as capture:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(MARKER, ("192.0.2.2", 9))
        capture.bind(("quiet0", ETH_P_ALL))
        capture.settimeout(0.3)
        found = 0
        while True:
            try:
                frame, (interface, *_) = capture.recvfrom(2048)
            except TimeoutError:
                return found
            found += interface == "loud0" and MARKER in frame


early, late = frames_of_loud0(ETH_P_ALL), frames_of_loud0(0)
print(f"opened with ETH_P_ALL, then bound to quiet0: {early or 'no'} frame of loud0")
print(f"opened with 0, bound to quiet0 with ETH_P_ALL: {late or 'no'} frame of loud0")
sys.exit((early, late) != (1, 0))
PYTHON
