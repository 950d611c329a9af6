"""Mistakes that need a node, or its host, to be made (the others are in ``tests/unit/test_mistakes.py``)."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.hosts import CommandError, Lab
from lab.nodes import PORT, PROGRAMS, Node
from lab.tunnels import LISTEN_FLAGS, listen_address

OTHER = "QmQUYyhzsSZYHSZSfLcGQhCcLKLaCMwNmVZSDHBTXtBCZD"
SLIP = f"{OTHER[:20]}x{OTHER[21:]}"


@pytest.fixture
def gateway(lab: Lab) -> Iterator[Node]:
    node = Node(lab.namespace("gateway"), "--listen", listen_address(4), *LISTEN_FLAGS)
    node.start().wait_event("listener_ready")
    yield node
    assert node.running().running, "nothing that anybody types ends it"


def told(node: Node, program: str, *words: str, status: int) -> str:
    """What a program says on one line, in the node's namespace."""
    with node.namespace.entered():
        done = subprocess.run(
            [PROGRAMS / program, *words], capture_output=True, text=True, timeout=30, env=node.env, check=False
        )
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_second_node_is_told_what_the_first_one_has(gateway: Node, tmp_path: Path) -> None:
    def start(*words: str) -> str:
        return told(gateway, "cryprq-node", "--identity", str(tmp_path / "second"), *LISTEN_FLAGS, *words, status=1)

    listen = ("--listen", listen_address(4))
    assert "interface cryprq0 exists already: choose another --tun-name" in start(*listen)
    said = start(*listen, "--tun-name", "cryprq1")
    assert f"UDP port {PORT} on 0.0.0.0 is in use" in said and "ss -ulnp" in said
    elsewhere = ("--listen", listen_address(4).replace(str(PORT), "9998"), "--tun-name", "cryprq1")
    said = start(*elsewhere, "--control-socket", str(gateway.control))
    assert f"another node uses the control socket {gateway.control}; give this one another --tun-name" in said
    nowhere = ("--listen", listen_address(4, "198.51.100.77"), "--tun-name", "cryprq1")
    assert "this machine does not have that address" in start(*nowhere)
    assert "cryprq1" not in gateway.namespace.ip("link show")


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (f"peer add {OTHER} --update --networks 10.66.0.1/32", 1, "10.66.0.1/32 is this node's own --tun-address"),
        (f"peer add {SLIP}", 1, "by a character or two: one of them is mistyped"),
        (f"peer add {OTHER}", 1, "is known already; --update changes what is known of it"),
        (f"peer add {OTHER[:-1]}", 1, "is nearly the same"),
        ("peer add OWN", 1, "this node's own peer ID"),
        (f"peer add {OTHER} --update --successor {OTHER}", 1, "is the peer's ID as it is"),
        (f"peer add {OTHER} --update --successor OWN", 1, "this node's own peer ID"),
        (f"peer add {OTHER} --update --psk-file /nowhere", 1, "no pre-shared key /nowhere"),
        ("peer disable bob", 1, "no peer is called 'bob'"),
        ("peer rename alice al_ice", 2, "is no name for a peer"),
        ("rotate alice", 1, "not connected"),
        ("rotate bob", 1, "no peer is called 'bob'"),
        ("invite alice", 1, "alice is"),
        ("invite --withdraw bob", 1, "bob"),
        ("doctor bob", 2, "no peer is called 'bob'"),
    ],
)
def test_commands_at_a_running_node(gateway_with_alice: Node, words: str, status: int, says: str) -> None:
    given = [word.replace("OWN", gateway_with_alice.peer_id) for word in words.split()]
    said = told(
        gateway_with_alice, "cryprq", *given, "--control-socket", str(gateway_with_alice.control), status=status
    )
    assert says in said


@pytest.fixture(scope="module")
def gateway_with_alice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        node = Node(lab.namespace("shared"), "--listen", listen_address(4), *LISTEN_FLAGS)
        node.start().wait_event("listener_ready")
        node.tool("peer", "add", OTHER, "--name", "alice")
        yield node
        assert node.running().running, "nothing that anybody types ends it"


def test_user_who_may_not(gateway: Node) -> None:
    with pytest.raises(CommandError, match=r"no permission for .*: use the node's user or root"):
        gateway.namespace.run(
            *("setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", "-all"),
            *(str(PROGRAMS / "cryprq"), "status", "--control-socket", str(gateway.control)),
        )


def test_reload_with_a_mistake_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f"[allow-peer]\n{OTHER} = []\n")
    node = Node(lab.namespace("host"), "--listen", listen_address(4), *LISTEN_FLAGS, "--config", str(config))
    node.start().wait_event("listener_ready")
    for count, (text, says) in enumerate(
        (
            ("[allow-peer\n", "is not valid TOML"),
            (f"[allow-peer]\n{OTHER} = '10.66.0.9'\n", "must be a list of CIDRs"),
            (f"[allow-peer]\n{node.peer_id} = []\n", "this node's own peer ID"),
            ("mtu = 'big'\n", "must be a whole number"),
        ),
        start=1,
    ):
        config.write_text(text)
        node.reload()
        event = node.wait_event("config_rejected", count=count)
        assert says in event["error"] and "stays in force" in event["hint"]
    config.unlink()
    node.reload()
    assert "No such file" in node.wait_event("config_rejected", count=5)["error"]
    assert [peer["peer_id"] for peer in node.status()["peers"]] == [OTHER]
