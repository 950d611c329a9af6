"""What may be wrong with a node by itself and with its host.

Each check is a function of the facts alone, and gives a line for each thing that it has looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Final

from cryprq.node.findings import FAULT, NOTE, OK, Facts, Finding, says

CONNTRACK_FULL: Final = 0.95
"""Part of the firewall's table from which new connections begin to fail."""
CLOCK_BEHIND: Final = 86_400.0
"""Seconds that a file of ours may be newer than the clock: another clock may have dated it."""


# ---- the node ----


def node(facts: Facts) -> Iterator[Finding]:
    say = says("node")
    if facts.status is not None:
        if facts.status["healthy"]:
            yield say(OK, f"runs, version {facts.status['version']}")
        else:
            yield say(FAULT, f"is not healthy: {facts.status['unhealthy']}", "journalctl -u cryprq-node -n 50")
    elif facts.not_asked:
        yield say(FAULT, facts.not_asked, "sudo cryprq doctor")
    else:
        yield say(FAULT, "no node runs", "cryprq up, or systemctl start cryprq-node; what else is wrong stands below")


def configuration(facts: Facts) -> Iterator[Finding]:
    say = says("configuration")
    if facts.config_fault:
        yield say(FAULT, facts.config_fault, "cryprq-node --check says the same when it is mended")
        return
    for doubt in facts.doubts:
        yield say(NOTE, doubt)
    if not facts.running and not facts.doubts:
        yield say(OK, "is understood")


def identity(facts: Facts) -> Iterator[Finding]:
    say = says("identity")
    if facts.running:
        return
    if facts.identity_fault:
        yield say(FAULT, facts.identity_fault)
    elif facts.identity_time is None:
        yield say(NOTE, "there is none yet; the node makes it at its first start", "cryprq keygen")
    else:
        yield say(OK, "is there, and private")


def registry(facts: Facts) -> Iterator[Finding]:
    if facts.registry_fault:
        yield says("registry")(FAULT, facts.registry_fault)


# ---- this host ----


def rights(facts: Facts) -> Iterator[Finding]:
    say = says("rights")
    if facts.running:
        return
    if facts.host.net_admin:
        yield say(OK, "this process may make a TUN, addresses and routes")
    else:
        yield say(
            FAULT, "this process has no CAP_NET_ADMIN", "sudo cryprq doctor; the node needs root or CAP_NET_ADMIN"
        )


def tun(facts: Facts) -> Iterator[Finding]:
    say, host, name = says("tun"), facts.host, facts.tun_name
    if facts.running:
        return
    if host.tun_fault:
        yield say(
            FAULT,
            f"/dev/net/tun cannot be opened: {host.tun_fault}",
            "modprobe tun; in a container: --device /dev/net/tun --cap-add NET_ADMIN",
        )
    elif host.tun_taken and not facts.not_asked:
        yield say(FAULT, f"there is an interface {name} already, and no node answers", f"ip link delete {name}")
    else:
        yield say(OK, "/dev/net/tun can be opened")


def ports(facts: Facts) -> Iterator[Finding]:
    for where, fault in facts.ports.items():
        yield says("port")(FAULT, fault) if fault else says("port")(OK, f"{where} is free")


def clock(facts: Facts) -> Iterator[Finding]:
    """Whether it is right in itself; ``knock`` compares it with peers'."""
    say, host = says("clock"), facts.host
    if facts.identity_time is not None and facts.identity_time - host.now > CLOCK_BEHIND:
        days = (facts.identity_time - host.now) / 86_400
        yield say(FAULT, f"is {days:.0f} days before this host's identity was made", "timedatectl set-ntp true")
    elif host.clock_synced is False:
        yield say(NOTE, "nothing keeps this host's clock right, as far as the kernel knows", "timedatectl set-ntp true")
    else:
        yield say(OK, "is kept right" if host.clock_synced else "nothing is known to be wrong")


def entropy(facts: Facts) -> Iterator[Finding]:
    say = says("entropy")
    if facts.host.rng_ready:
        yield say(OK, "the kernel's random numbers are of use")
    else:
        yield say(
            FAULT,
            "the kernel has not gathered enough randomness to make a key",
            "give the machine a source: rngd, virtio-rng; or wait",
        )


def forwarding(facts: Facts) -> Iterator[Finding]:
    """Needed by who says that networks are behind it."""
    say = says("forwarding")
    names = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
    needed = sorted({ip_network(network).version for network in facts.announced})
    for version in needed:
        if facts.host.forwarding.get(version) is False:
            told = ", ".join(each for each in facts.announced if ip_network(each).version == version)
            yield say(
                FAULT, f"is off, and dialers are told of {told} behind this node", f"sysctl -w {names[version]}=1"
            )
        else:
            yield say(OK, f"IPv{version} is on")
    if not needed:
        yield say(OK, "is not needed: no --route is announced")


def reverse_path(facts: Facts) -> Iterator[Finding]:
    say, host = says("rp_filter"), facts.host
    strict = sorted(name for name, value in host.rp_filter.items() if value == 1 and name != "lo")
    if strict and host.rp_dropped:
        todo = "; ".join(f"sysctl -w net.ipv4.conf.{name}.rp_filter=2" for name in strict[:3])
        yield say(
            FAULT,
            f"strict reverse path filters ({', '.join(strict)}) have dropped {host.rp_dropped} packets: a route or rule"
            " leads answers another way",
            f"ip rule; ip route get ADDRESS; or {todo} (and net.ipv4.conf.all.rp_filter, if that is 1)",
        )
    elif host.rp_dropped:
        yield say(NOTE, f"reverse path filters have dropped {host.rp_dropped} packets; none is strict now")
    else:
        yield say(OK, "has dropped nothing")


def conntrack(facts: Facts) -> Iterator[Finding]:
    say = says("conntrack")
    if facts.host.conntrack is None:
        yield say(OK, "no firewall tracks connections here")
        return
    count, most = facts.host.conntrack
    if count >= CONNTRACK_FULL * most:
        yield say(
            FAULT,
            f"the firewall's table of connections is full: {count} of {most}",
            f"sysctl -w net.netfilter.nf_conntrack_max={most * 4}",
        )
    else:
        yield say(OK, f"{count} of {most} places are taken")


def offloads(facts: Facts) -> Iterator[Finding]:
    say = says("offloads")
    if facts.status is None:
        return
    states: Mapping[str, str] = facts.status["offloads"]
    missing = {name: state for name, state in states.items() if name != "rcvbuf" and state not in ("on", "off")}
    if missing:
        told = ", ".join(f"{name} ({state})" for name, state in missing.items())
        yield say(NOTE, f"without {told} packets cost more", "a newer kernel has them; see the performance guide")
    else:
        yield say(OK, "all that are wanted are in use")


def routes(facts: Facts) -> Iterator[Finding]:
    say, host = says("routes"), facts.host
    if facts.status is None:
        if host.leftovers:
            yield say(
                FAULT,
                f"a node with {facts.tun_name} has left {host.leftovers} routes and rules, which reject packets"
                " (its kill switch)",
                f"cryprq up to go on with it, or cryprq down --tun-name {facts.tun_name} to lift it",
            )
        return
    faults: Sequence[str] = facts.status["faults"]
    for fault in faults:
        yield say(FAULT, f"the kernel does not have what the tunnel needs: {fault}", "ip route; ip rule")
    if facts.status["routes_missing"] and not faults:
        yield say(FAULT, f"{facts.status['routes_missing']} routes are missing", "ip route; ip rule")
    elif not faults:
        yield say(OK, "all that the tunnel needs are there")


def firewall(facts: Facts) -> Iterator[Finding]:
    say = says("firewall")
    if facts.blocks is None:
        yield say(OK, "was not looked at: that needs root and nft")
        return
    unheard = any(each.answer in ("silent", "blocked", "refused") for peer in facts.peers for each in peer.reach)
    lonely = bool(facts.listening) and not any(peer.connected for peer in facts.peers)
    for block in facts.blocks:
        level = FAULT if unheard or (lonely and block.hook != "output") else NOTE
        yield say(level, f"{block.where} {block.what}", block.todo)
    if not facts.blocks:
        yield say(OK, "no rule of nftables drops the node's UDP")
