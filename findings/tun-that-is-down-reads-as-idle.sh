#!/usr/bin/env bash
# A TUN device that is down looks idle to the program that reads it; only a write says EIO.
#
#   read() gives EAGAIN, or sleeps, as if there were no packet; it even hands out what was queued before. poll() reports
#   neither an error nor, once down, that the device is writable, and a poll() that waits is not woken by "ip link set
#   tun0 down". Only a write fails, with EIO. When the device is deleted, poll() reports POLLERR, and both calls fail
#   with EBADFD, which is not EBADF.
#
# Code that waits for EIO of a read to learn that its device is down never sees it, and a loop that waits for POLLOUT
# before it writes waits for ever, without the EIO that it could have had. What helps: netlink tells that the device
# went down.
#
# Seen on Linux 6.18.44:
#   never up: read EAGAIN, write EIO, poll nothing
#   up: read EAGAIN, write 28 bytes, poll POLLOUT
#   poll that waits while the device goes down: nothing
#   down with a packet in its queue: read 29 bytes, write EIO, poll POLLIN
#   down: read EAGAIN, write EIO, poll nothing
#   poll that waits while the device is deleted: POLLERR
#   deleted: read EBADFD, write EBADFD, poll POLLERR
#
# Needs python3, iproute2 and /dev/net/tun, and root or user namespaces. Exit status: 0 it is so, 1 it has changed, 2 it
# cannot run.
set -euo pipefail

if [[ ${1:-} != inside ]]; then
    namespaces=(--net)
    ((EUID == 0)) || namespaces+=(--user --map-root-user)
    unshare "${namespaces[@]}" true || exit 2
    [[ -w /dev/net/tun ]] || { echo "/dev/net/tun cannot be opened" >&2; exit 2; }
    exec unshare "${namespaces[@]}" "${BASH_SOURCE[0]}" inside
fi

echo "Linux $(uname -r)"
python3 - <<'PYTHON'
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading

IPV6_OFF = "/proc/sys/net/ipv6/conf/tun0/disable_ipv6"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PACKET = bytes.fromhex("4500001c00004000401166cd0a000001c0a80001") + bytes(8)
EVENTS = {select.POLLIN: "POLLIN", select.POLLOUT: "POLLOUT", select.POLLERR: "POLLERR"}
EXPECTED = """\
never up: read EAGAIN, write EIO, poll nothing
up: read EAGAIN, write 28 bytes, poll POLLOUT
poll that waits while the device goes down: nothing
down with a packet in its queue: read 29 bytes, write EIO, poll POLLIN
down: read EAGAIN, write EIO, poll nothing
poll that waits while the device is deleted: POLLERR
deleted: read EBADFD, write EBADFD, poll POLLERR
"""

tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
seen = []


def ip(arguments):
    subprocess.run(["ip", *arguments.split()], check=True)


def tell(line):
    print(line)
    seen.append(line + "\n")


def attempt(call):
    try:
        result = call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return f"{result if isinstance(result, int) else len(result)} bytes"


def poll(events, milliseconds):
    poller = select.poll()
    poller.register(tun, events)
    found = dict(poller.poll(milliseconds)).get(tun, 0)
    return " ".join(name for bit, name in EVENTS.items() if found & bit) or "nothing"


def look(state):
    polled = poll(select.POLLIN | select.POLLOUT, 0)
    read, write = attempt(lambda: os.read(tun, 2048)), attempt(lambda: os.write(tun, PACKET))
    tell(f"{state}: read {read}, write {write}, poll {polled}")


def wait_while(event, command):
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(poll(select.POLLIN, 1000)))
    waiting.start()
    ip(command)
    waiting.join()
    tell(f"poll that waits while the device {event}: {answers[0]}")


look("never up")
if os.path.exists(IPV6_OFF):  # else the kernel sends packets of its own
    with open(IPV6_OFF, "w") as switch:
        switch.write("1")
ip("address add 10.0.0.1/24 dev tun0")
ip("link set tun0 up")
look("up")
wait_while("goes down", "link set tun0 down")
ip("link set tun0 up")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.sendto(b"x", ("10.0.0.2", 9))
ip("link set tun0 down")
look("down with a packet in its queue")
look("down")
wait_while("is deleted", "link delete tun0")
look("deleted")
sys.exit("".join(seen) != EXPECTED)
PYTHON
