#!/usr/bin/env bash
# Whether datagrams for a SO_REUSEPORT group are merged is asked of a socket of the group that need not be theirs.
#
#   A program (SO_ATTACH_REUSEPORT_CBPF) sends every datagram of the port to socket 0, which has UDP_GRO on; socket 1 is
#   in the group and has it off. Socket 0 gets everything, but merged only from about half of the senders: GRO runs
#   before the program, chooses a socket of the group by the hash of addresses and ports alone, and merges if that one
#   wants it. For each flow the answer is always the same.
#
# udp(7) has UDP_GRO as an option of one socket, and the socket that receives has it. Where one member is opened without
# it (a spare one, one that is only for sending, one of another process that is about to take over), the others lose the
# merging for a share of their flows; nothing fails and no counter moves, it only costs more CPU, for some peers and not
# for others. What helps: UDP_GRO on every socket that is bound to the port, whoever reads from it.
#
# Seen on Linux 6.18.44, two datagrams from each of 24 source ports, all received by socket 0:
#   UDP_GRO on socket 0 and 1: all merged
#   UDP_GRO on socket 0 alone: some merged
#   UDP_GRO on socket 1 alone: none merged
#
# Needs root (deferred GRO is set in sysfs), python3 and iproute2. Exit status: 0 it is so, 1 it has changed, 2 it
# cannot run.
set -euo pipefail

if [[ ${1:-} != inside ]]; then
    ((EUID == 0)) || { echo "deferred GRO is for root" >&2; exit 2; }
    unshare --net --mount true || exit 2
    exec unshare --net --mount "${BASH_SOURCE[0]}" inside
fi

# far sends what near receives, which waits half a second for more before it lets a packet go on.
[[ ! -e /proc/sys/net/ipv6 ]] || echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add far address 02:00:00:00:00:01 type veth peer name near address 02:00:00:00:00:02
ip address add 192.0.2.2/24 dev near
mount -t sysfs sysfs /sys
echo 500000000 >/sys/class/net/near/gro_flush_timeout
echo 1 >/sys/class/net/near/napi_defer_hard_irqs

echo "Linux $(uname -r)"
python3 - <<'PYTHON'
import ctypes
import fcntl
import socket
import struct
import subprocess
import sys

SIOCETHTOOL, ETHTOOL_STSO, ETHTOOL_SGRO = 0x8946, 0x1F, 0x2C
SO_ATTACH_REUSEPORT_CBPF, SOL_UDP, UDP_GRO = 51, 17, 104
HERE, THERE, PORT = "192.0.2.2", "192.0.2.1", 5000
SOURCE_PORTS = range(40000, 40024)
PAYLOAD = bytes(100)


def offload(device: str, command: int, on: int) -> None:
    value = ctypes.create_string_buffer(struct.pack("=II", command, on), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP16x", device.encode(), ctypes.addressof(value)))


def ones_complement(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet_frame(source_port: int) -> bytes:
    """A whole datagram with its checksums: without the one of UDP it would not be merged at all."""
    addresses = socket.inet_aton(THERE) + socket.inet_aton(HERE)
    size = 8 + len(PAYLOAD)
    ports = struct.pack("!HHH", source_port, PORT, size)
    udp_sum = ones_complement(addresses + struct.pack("!HH", socket.IPPROTO_UDP, size) + ports + bytes(2) + PAYLOAD)
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + size, 0, 0x4000, 64, socket.IPPROTO_UDP)
    ip_sum = ones_complement(start + bytes(2) + addresses)
    macs_and_type = bytes.fromhex("020000000002" "020000000001" "0800")
    return macs_and_type + start + struct.pack("!H", ip_sum) + addresses + ports + struct.pack("!H", udp_sum) + PAYLOAD


def how_many_are_merged(*options: int) -> str:
    """A group with UDP_GRO as given for each socket; all is sent to socket 0."""
    group = []
    for option in options:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(SOL_UDP, UDP_GRO, option)
        sock.bind((HERE, PORT))
        group.append(sock)
    return_0 = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)
    group[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", 1, ctypes.addressof(return_0)))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind(("far", 0))
        for source_port in SOURCE_PORTS:
            for _ in range(2):
                wire.send(ethernet_frame(source_port))
    group[0].settimeout(5)
    bytes_left, reads = 2 * len(SOURCE_PORTS) * len(PAYLOAD), 0
    while bytes_left:
        bytes_left -= len(group[0].recv(65535))
        reads += 1
    for sock in group:
        sock.close()
    merged = 2 * len(SOURCE_PORTS) - reads
    return {0: "none", len(SOURCE_PORTS): "all"}.get(merged, "some")


offload("far", ETHTOOL_STSO, 0)  # else a veth takes it that its peer's packets are large already
offload("near", ETHTOOL_SGRO, 1)
for device in ("near", "far"):
    subprocess.run(["ip", "link", "set", device, "up"], check=True)
changed = False
for sockets, options, expected in (("0 and 1", (1, 1), "all"), ("0 alone", (1, 0), "some"), ("1 alone", (0, 1), "none")):
    answer = how_many_are_merged(*options)
    print(f"UDP_GRO on socket {sockets}: {answer} merged")
    changed |= answer != expected
sys.exit(changed)
PYTHON
