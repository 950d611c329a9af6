"""What two nodes may choose: the key agreement, the kind of identity, a pre-shared key. And what they say if their
choices do not fit."""

from pathlib import Path

import pytest

from cryprq.config.psk_file import create_psk
from cryprq.protocol.liboqs import LiboqsMissing
from lab.hosts import Lab
from lab.nodes import PROGRAMS
from lab.tunnels import GATEWAY, Tunnel, make_tunnel
from tests.rigs import liboqs

THIRD = "x25519-mlkem768-frodokem976aes"


def make_identity(tunnel: Tunnel, name: str) -> str:
    """A new identity with ML-DSA-87 in place of the node's; its ID."""
    node = getattr(tunnel, name)
    node.identity.unlink()
    command = (str(PROGRAMS / "cryprq"), "keygen", "--signature", "ml-dsa-87", "--out", str(node.identity))
    node.peer_id = str(node.namespace.run(*command)).strip()
    return str(node.peer_id)


def test_cnsa_2_pair_and_a_pre_shared_key_carry_traffic_over_a_rotation(lab: Lab) -> None:
    """ML-KEM-1024 and ML-DSA-87 at both ends; the second pre-shared key comes by reload, first at one end."""
    tunnel = make_tunnel(lab, listen=("--kem", "x25519-mlkem1024"), dial=("--kem", "x25519-mlkem1024"), up=False)
    listener, dialer = tunnel.listener, tunnel.dialer
    keys = [lab.directory / f"{end}.psk" for end in ("listener", "dialer")]
    create_psk(keys[0])
    share(*keys)
    dialer_id, listener_id = make_identity(tunnel, "dialer"), make_identity(tunnel, "listener")
    config = lab.directory / "listener.toml"
    config.write_text(f'[allow-peer]\n{dialer_id} = {{ psk-file = "{keys[0].name}" }}\n')
    listener.arguments = [*without(listener.arguments, "--allow-peer"), "--config", str(config)]
    where = listener.multiaddr("192.0.2.1")
    dialer.arguments = [*without(dialer.arguments, "--peer"), "--peer", where]
    dialer.arguments += ["--psk-file", f"{listener_id}={keys[1]}"]
    tunnel.start()
    for node in (listener, dialer):
        done = node.events("handshake_complete")[0]
        assert (done["kem"], done["sig"]) == ("x25519-mlkem1024", "ed25519-ml-dsa-87")
    ping = dialer.namespace.traffic("ping", GATEWAY[4], count=150, interval=0.02)
    dialer.tool("rotate")
    assert dialer.wait_event("key_rotation")["status"] == "success"
    keys[0].unlink()
    create_psk(keys[0])
    listener.reload()
    for node in (listener, dialer):
        failed = node.wait_event("handshake_failed", reason="psk")
        assert failed["hint"].startswith("the pre-shared key differs")
        assert len(node.events("handshake_complete")) == 1, "that before, and none of those that failed"
    share(*keys)
    dialer.reload()
    dialer.wait_event("handshake_complete", count=2)
    assert ping.result()["received"] == 150, "the keys from before carry on until both ends have the new one"
    for node in (listener, dialer):
        assert not node.events("peer_disconnected")


def test_key_agreement_that_only_one_end_wants_is_named_by_both(lab: Lab) -> None:
    tunnel = make_tunnel(lab, listen=("--kem", "x25519-mlkem1024"), up=False)
    tunnel.listener.start().wait_event("listener_ready")
    tunnel.dialer.start()
    hint = tunnel.listener.wait_event("handshake_failed", reason="kem")["hint"]
    assert hint == "the dialer wants --kem x25519-mlkem768, this node accepts x25519-mlkem1024"
    assert "--kem x25519-mlkem768" in tunnel.dialer.wait_event("handshake_failed", reason="refused")["hint"]
    tunnel.dialer.stop()
    tunnel.dialer.start("--kem", "x25519-mlkem1024")
    tunnel.wait_up()


def test_third_secret_of_liboqs_carries_traffic_over_a_rotation(lab: Lab) -> None:
    try:
        liboqs.load()
    except LiboqsMissing as missing:
        pytest.skip(str(missing))
    tunnel = make_tunnel(lab, listen=("--kem", THIRD, "--kem", "x25519-mlkem768"), dial=("--kem", THIRD), up=False)
    for node in (tunnel.listener, tunnel.dialer):
        node.env["OQS_INSTALL_PATH"] = liboqs.prefix()
    make_identity(tunnel, "listener")
    tunnel.dialer.arguments = [
        *without(tunnel.dialer.arguments, "--peer"),
        *("--peer", tunnel.listener.multiaddr("192.0.2.1")),
    ]
    tunnel.start()
    for node in (tunnel.listener, tunnel.dialer):
        assert node.events("handshake_complete")[0]["kem"] == THIRD
    ping = tunnel.dialer.namespace.traffic("ping", GATEWAY[4], count=50, interval=0.02)
    tunnel.dialer.tool("rotate")
    for node in (tunnel.listener, tunnel.dialer):
        assert node.wait_event("key_rotation")["status"] == "success"
    assert ping.result()["received"] == 50
    assert tunnel.dialer.status()["peers"][0]["kem"] == THIRD


def share(source: Path, target: Path) -> None:
    """Gives the other end the same key."""
    target.touch(mode=0o600)
    target.write_bytes(source.read_bytes())


def without(arguments: list[str], flag: str) -> list[str]:
    """The arguments less a flag and its value."""
    at = arguments.index(flag)
    return arguments[:at] + arguments[at + 2 :]
