#!/usr/bin/env bash
# A batch that UDP_GRO has merged goes as a whole to the socket that a SO_REUSEPORT program picks for the first datagram
# in it.
#
#   Sockets of a SO_REUSEPORT group have UDP_GRO on, and a BPF program (SO_ATTACH_REUSEPORT_CBPF) sends each datagram to
#   one of them by its first byte. GRO works before the program: it merges datagrams with the same addresses and ports
#   whatever is in them, the program sees the first, and its socket gets those of all others, too. Without UDP_GRO each
#   goes where it belongs.
#
# Every test with single packets passes; under load a receiver that merges (a network card, or an interface with
# threaded or deferred GRO) mixes streams that the program was to keep apart. What helps: GRO merges only packets of one
# TTL, so senders that give each stream a TTL of its own keep them apart, until something on the way sets one for all.
# A receiver has to look at each datagram of a batch in any case.
#
# Seen on Linux 6.18.44, A and B being one datagram each, the program's choice 0 for A and 1 for B:
#   UDP_GRO on, TTL 64 and 64: socket 0 got AB, socket 1 got nothing
#   UDP_GRO on, TTL 64 and 65: socket 0 got A, socket 1 got B
#   UDP_GRO off, TTL 64 and 64: socket 0 got A, socket 1 got B
#
# Needs root (deferred GRO is set in sysfs), python3 and iproute2. Exit status: 0 it is so, 1 it has changed, 2 it
# cannot run.
set -euo pipefail

if [[ ${1:-} != inside ]]; then
    ((EUID == 0)) || { echo "deferred GRO is for root" >&2; exit 2; }
    unshare --net --mount true || exit 2
    exec unshare --net --mount "${BASH_SOURCE[0]}" inside
fi

# What wire0 sends, wire1 receives; it waits half a second for more to merge a packet with, unless another packet, such
# as the kernel's own of IPv6, makes it look.
[[ ! -e /proc/sys/net/ipv6 ]] || echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add wire0 address 02:00:00:00:00:01 type veth peer name wire1 address 02:00:00:00:00:02
ip address add 192.0.2.2/24 dev wire1
mount -t sysfs sysfs /sys
echo 500000000 >/sys/class/net/wire1/gro_flush_timeout
echo 1 >/sys/class/net/wire1/napi_defer_hard_irqs

echo "Linux $(uname -r)"
python3 - <<'PYTHON'
import ctypes
import fcntl
import select
import socket
import struct
import subprocess
import sys
import time

SIOCETHTOOL, ETHTOOL_STSO, ETHTOOL_SGRO = 0x8946, 0x1F, 0x2C
SO_ATTACH_REUSEPORT_CBPF, SOL_UDP, UDP_GRO = 51, 17, 104
LOAD_FIRST_BYTE, RETURN_IT = (0x30, 0, 0, 0), (0x16, 0, 0, 0)
FROM, TO, PORT = "192.0.2.1", "192.0.2.2", 5000
EXPECTED = [("AB", "nothing"), ("A", "B"), ("A", "B")]


def ethtool(device, command, on):
    value = ctypes.create_string_buffer(struct.pack("=II", command, on), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP16x", device.encode(), ctypes.addressof(value)))


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(first_byte, ttl):
    """100 bytes in UDP, IPv4 and Ethernet, as a host at the other end of the cable would send them."""
    source, destination, payload = socket.inet_aton(FROM), socket.inet_aton(TO), bytes([first_byte]) * 100
    udp = struct.pack("!HHHH", 4000, PORT, 8 + len(payload), 0) + payload
    udp = udp[:6] + struct.pack("!H", checksum(source + destination + struct.pack("!HH", 17, len(udp)) + udp)) + udp[8:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, ttl, 17, 0) + source + destination
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return bytes.fromhex("020000000002" "020000000001" "0800") + ip + udp


def member(gro):
    """A socket of the group, which numbers its members in the order in which they are bound."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(SOL_UDP, UDP_GRO, gro)
    sock.bind((TO, PORT))
    return sock


def received(gro, ttls):
    """Which datagrams each socket got: A begins with a byte 0, B with a byte 1."""
    group = [member(gro), member(gro)]
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in (LOAD_FIRST_BYTE, RETURN_IT))
    buffer = ctypes.create_string_buffer(program, len(program))
    group[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", 2, ctypes.addressof(buffer)))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind(("wire0", 0))
        for first_byte, ttl in enumerate(ttls):
            wire.send(frame(first_byte, ttl))
    found = {sock: "" for sock in group}
    end = time.monotonic() + 5
    while sum(map(len, found.values())) < len(ttls) and time.monotonic() < end:
        for sock in select.select(group, [], [], 0.1)[0]:
            found[sock] += "".join("AB"[byte] for byte in sock.recv(65535)[::100])
    for sock in group:
        sock.close()
    return tuple(letters or "nothing" for letters in found.values())


ethtool("wire0", ETHTOOL_STSO, 0)  # else a veth takes it that its peer's packets are large already
ethtool("wire1", ETHTOOL_SGRO, 1)
for device in ("wire1", "wire0"):  # the second one sends at once, the first only when the kernel comes round to it
    subprocess.run(["ip", "link", "set", device, "up"], check=True)
seen = []
for gro, ttls in ((1, (64, 64)), (1, (64, 65)), (0, (64, 64))):
    seen.append(received(gro, ttls))
    told = ", ".join(f"socket {number} got {letters}" for number, letters in enumerate(seen[-1]))
    print(f"UDP_GRO {'on' if gro else 'off'}, TTL {ttls[0]} and {ttls[1]}: {told}")
sys.exit(seen != EXPECTED)
PYTHON
