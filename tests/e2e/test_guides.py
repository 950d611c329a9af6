"""The guides and the README keep their word: every block of commands is typed as it stands, on hosts as the page draws
them, and prints what the page says."""

from pathlib import Path

import pytest

from lab import ROOT, guides
from lab.guides import Host, Typist
from lab.hosts import CommandError, Lab, Namespace

GUIDES = ROOT / "docs" / "guides"
INSTALL = guides.blocks((GUIDES / "install.md").read_text())


def page(name: str) -> str:
    return (GUIDES / f"{name}.md").read_text()


def cable(lab: Lab, left: Namespace, right: Namespace, network: str, ends: tuple[int, int], name: str = "lan0") -> None:
    """Two hosts of a network (``192.168.5.{}/24``), by their last numbers."""
    lab.veth(left, [network.format(ends[0])], right, [network.format(ends[1])], names=(name, "eth0"))


def typist(*namespaces: Namespace, installed: bool = True) -> Typist:
    """Who types at these hosts, on which a node is installed as its guide says."""
    hosts = {namespace.name: Host(namespace) for namespace in namespaces}
    if installed:
        for host in hosts.values():
            Typist({"host": host}).play(INSTALL[:2])
    return Typist(hosts)


def test_install(lab: Lab) -> None:
    host = lab.namespace("host")
    assert typist(host, installed=False).play(INSTALL) == 2


def test_site_to_site(lab: Lab) -> None:
    text = page("site-to-site")
    desk, hq, branch, printer = (lab.namespace(name) for name in ("desk", "hq", "branch", "printer"))
    internet = lab.namespace("internet")
    lab.veth(hq, ["203.0.113.7/24"], internet, ["203.0.113.1/24"], names=("eth0", "eth0"))
    lab.veth(branch, ["198.51.100.9/24"], internet, ["198.51.100.1/24"], names=("eth0", "eth1"))
    internet.sysctl("net.ipv4.ip_forward", 1)
    hq.ip("route add default via 203.0.113.1")
    branch.ip("route add default via 198.51.100.1")
    cable(lab, hq, desk, "192.168.5.{}/24", (1, 20))
    cable(lab, branch, printer, "192.168.9.{}/24", (1, 30))
    desk.ip("route add default via 192.168.5.1")
    printer.ip("route add default via 192.168.9.1")
    assert typist(desk, hq, branch, printer).play(guides.blocks(text)) >= 8


def test_road_warrior(lab: Lab) -> None:
    laptop, nat, hq, desk, web = (lab.namespace(name) for name in ("laptop", "nat", "hq", "desk", "web"))
    internet = lab.namespace("internet")
    lab.veth(laptop, ["192.168.1.20/24"], nat, ["192.168.1.1/24"], names=("eth0", "inside"))
    lab.veth(nat, ["198.51.100.9/24"], internet, ["198.51.100.1/25"], names=("eth0", "eth1"))
    lab.veth(web, ["198.51.100.80/32"], internet, ["192.0.2.1/32"], names=("eth0", "eth2"))
    lab.veth(hq, ["203.0.113.7/24"], internet, ["203.0.113.1/24"], names=("eth0", "eth0"))
    for host, gateway in ((laptop, "192.168.1.1"), (nat, "198.51.100.1"), (hq, "203.0.113.1")):
        host.ip(f"route add default via {gateway}")
    web.ip("route add default dev eth0")
    internet.ip("route add 198.51.100.80/32 dev eth2")
    internet.sysctl("net.ipv4.ip_forward", 1)
    internet.sysctl("net.ipv4.conf.all.proxy_arp", 1)
    nat.sysctl("net.ipv4.ip_forward", 1)
    nat.run("nft", "add table ip nat")
    nat.run("nft", "add chain ip nat postrouting { type nat hook postrouting priority srcnat; }")
    nat.run("nft", "add rule ip nat postrouting oifname eth0 masquerade")
    cable(lab, hq, desk, "192.168.5.{}/24", (1, 20))
    desk.ip("route add default via 192.168.5.1")
    assert typist(laptop, hq).play(guides.blocks(page("road-warrior"))) >= 8


def test_from_wireguard(lab: Lab) -> None:
    text = page("from-wireguard")
    hq, branch, internet = (lab.namespace(name) for name in ("hq", "branch", "internet"))
    lab.veth(hq, ["203.0.113.7/24"], internet, ["203.0.113.1/24"], names=("eth0", "eth0"))
    lab.veth(branch, ["198.51.100.9/24"], internet, ["198.51.100.1/24"], names=("eth0", "eth1"))
    internet.sysctl("net.ipv4.ip_forward", 1)
    hq.ip("route add default via 203.0.113.1")
    branch.ip("route add default via 198.51.100.1")
    there = typist(hq, branch)
    for host in ("hq", "branch"):
        there.write(host, "/etc/wireguard/wg0.conf", guides.file(text, f"/etc/wireguard/wg0.conf on {host}"))
    assert there.play(guides.blocks(text)) >= 8


def two_hosts(lab: Lab) -> Typist:
    """The README's: a gateway with its address, and a laptop that reaches it."""
    gateway, laptop = lab.namespace("gateway"), lab.namespace("laptop")
    lab.veth(gateway, ["203.0.113.7/24"], laptop, ["203.0.113.20/24"])
    return typist(gateway, laptop, installed=False)


def readme(start: str, end: str) -> list[guides.Block]:
    """The blocks between two headings."""
    return guides.blocks((ROOT / "README.md").read_text().split(f"\n{start}\n")[1].split(f"\n{end}\n")[0])


def test_readme_with_an_invitation(lab: Lab) -> None:
    assert two_hosts(lab).play(readme("## Connect two hosts", "### By hand")) == 3


def test_readme_by_hand(lab: Lab) -> None:
    there = two_hosts(lab)
    keygen, *rest = readme("### By hand", "## Settings")
    assert there.play([keygen]) == 1
    for name, host in (("QmGATEWAY", "gateway"), ("QmDIALER", "laptop")):
        there.known[name] = there.hosts[host].type(".venv/bin/cryprq id /var/lib/cryprq/identity").strip()
    assert there.play(rest) == 3


def test_every_guide_is_played_and_few_blocks_are_left_out() -> None:
    """Docker's needs an engine, which these namespaces do not reach: ``python -m lab.guides docs/guides/docker.md``."""
    played = {"install", "site-to-site", "road-warrior", "from-wireguard"}
    assert {path.stem for path in GUIDES.glob("*.md")} == {*played, "docker"}
    pages = {name: guides.blocks(page(name)) for name in (*played, "docker")}
    left_out = {name: list(guides.not_run(blocks)) for name, blocks in pages.items()}
    assert {name: len(reasons) for name, reasons in left_out.items() if reasons} == {
        "install": 1, "from-wireguard": 2, "docker": 1,
    }  # fmt: skip
    assert len(list(guides.not_run(guides.blocks((ROOT / "README.md").read_text().split("\n## Settings\n")[0])))) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```sh\n# on host\necho one\n```\n```output\ntwo\n```\n", "the page has 'two'"),
        ("```sh\n# on host\nfalse\necho one\n```\n", "exit status 1"),
        ("```sh\n# on host\necho TOKEN\n```\n", "has said what TOKEN is"),
        ("```sh\n# on other\necho one\n```\n", "no host other"),
    ],
    ids=["output", "failure", "placeholder", "host"],
)
def test_what_a_page_has_wrong_is_noticed(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        Typist({"host": guides.Here(tmp_path)}).play(guides.blocks(text))


def test_block_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: on which host"):
        guides.blocks("```sh\necho one\n```\n")
