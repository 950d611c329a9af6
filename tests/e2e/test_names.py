"""Peers by name, and what there is to see of them: status, events, metrics, the log, a directory of peers."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cryprq.peer_id import PeerId
from lab import ROOT
from lab.hosts import CommandError, Lab, Process
from lab.nodes import PROGRAMS
from lab.tunnels import DIALER, GATEWAY, Tunnel, make_tunnel
from lab.uplink import soon

AWAY = str(PeerId(bytes(32)))


class Site:
    """A tunnel whose listener has its peers in a directory. The dialer is ``alice``; ``away`` has never been here."""

    def __init__(self, tunnel: Tunnel, peers: Path) -> None:
        self.tunnel = tunnel
        self.listener, self.dialer = tunnel.listener, tunnel.dialer
        self.peers = peers
        self._readers = 0
        self.alice = f'id = "{self.dialer.peer_id}"\n'

    def write(self, name: str, text: str) -> None:
        """As an editor does: elsewhere, and then a rename."""
        hidden = self.peers / f".{name}.tmp"
        hidden.write_text(text)
        hidden.rename(self.peers / f"{name}.toml")

    def read_events(self) -> Process:
        """``cryprq events`` of the listener, which prints into its log."""
        self._readers += 1
        return self.listener.namespace.start(
            f"events-{self._readers}",
            str(PROGRAMS / "cryprq"),
            "events",
            "--control-socket",
            str(self.listener.control),
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        text = (self.listener.directory / f"events-{self._readers}.log").read_text()
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["event"] == name]

    def peer(self, name: str) -> dict[str, Any]:
        (found,) = (peer for peer in self.listener.status()["peers"] if peer["name"] == name)
        return dict(found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Lab(tmp_path_factory.mktemp("names")) as lab:
        peers = lab.directory / "peers.d"
        peers.mkdir()
        tunnel = make_tunnel(lab, up=False)
        flags = tunnel.listener.arguments
        at = flags.index("--allow-peer")
        flags[at : at + 2] = ["--allow-peer-dir", str(peers)]
        site = Site(tunnel, peers)
        site.write("alice", site.alice)
        site.write("away", f'id = "{AWAY}"\ngroups = ["staff"]\ndisabled = true\n')
        tunnel.start()
        yield site


def test_status_shows_everybody_and_keeps_to_its_schema(site: Site) -> None:
    site.dialer.namespace.measure("ping", GATEWAY[4], count=20, interval=0.01)
    status = site.listener.status()
    jsonschema.validate(status, json.loads((ROOT / "docs/status.schema.json").read_text()))
    alice, away = site.peer("alice"), site.peer("away")
    assert alice["connected"] and alice["peer_id"] == site.dialer.peer_id
    assert 0 < alice["round_trip_secs"] < 1
    assert alice["epoch_arrived"] > 20 and alice["epoch_lost"] == 0
    assert status["time"] - 60 < alice["since"] <= status["time"]
    assert (away["connected"], away["barred"], away["groups"], away["since"]) == (False, "disabled", ["staff"], None)
    table = site.listener.tool("status")
    row = next(line for line in table.splitlines() if line.startswith("alice"))
    assert row.split()[1] == "up" and DIALER[4] in row and site.dialer.peer_id in row
    assert next(line for line in table.splitlines() if line.startswith("away")).split()[1] == "disabled"


def test_rates_are_those_of_the_last_second(site: Site) -> None:
    ping = site.dialer.namespace.traffic("ping", GATEWAY[4], count=300, interval=0.01)
    assert soon(lambda: site.peer("alice")["rx_rate"] > 1000)
    ping.result()
    assert soon(lambda: site.peer("alice")["rx_rate"] == 0)


def test_name_is_in_the_log_in_metrics_and_stands_for_the_id(site: Site) -> None:
    connected = site.listener.wait_event("peer_connected")
    assert (connected["peer"], connected["peer_id"]) == ("alice", site.dialer.peer_id)
    assert site.listener.metric("peer_info", name="alice", peer_id=site.dialer.peer_id) == 1
    before = len(site.listener.events("key_rotation"))
    for word in ("Alice", site.dialer.peer_id[:12]):
        assert site.listener.tool("rotate", word) == f"rotation started with {site.dialer.peer_id} ({word})\n"
        before += 1
        assert site.listener.wait_event("key_rotation", count=before)["peer"] == "alice"
    with pytest.raises(CommandError, match=r"no session with .* to rotate|knows no peer"):
        site.listener.tool("rotate", "away")
    slip = site.dialer.peer_id[:20] + site.dialer.peer_id[21:]
    with pytest.raises(CommandError, match=f"{slip} is not a peer ID; did you mean {site.dialer.peer_id}"):
        site.listener.tool("rotate", slip)


def test_events_of_a_peer_that_is_disabled_and_enabled_by_its_file(site: Site) -> None:
    reader = site.read_events()
    assert soon(lambda: bool(site.events("snapshot")))
    (snapshot,) = site.events("snapshot")
    assert {peer["name"] for peer in snapshot["status"]["peers"]} == {"alice", "away"}
    site.listener.tool("rotate", "alice")
    assert soon(lambda: bool(site.events("key_rotation")))
    assert site.events("key_rotation")[0]["peer"] == "alice"
    site.write("alice", site.alice + "disabled = true\n")
    assert soon(lambda: bool(site.events("peer_disconnected")))
    assert site.events("peer_disconnected")[0]["reason"] == "not_allowlisted"
    assert soon(lambda: site.peer("alice")["barred"] == "disabled")
    assert site.dialer.wait_event("handshake_failed", timeout=15)["reason"] == "refused"
    site.write("alice", site.alice)
    assert soon(lambda: bool(site.events("peer_connected")), seconds=30)
    reader.stop()


def test_time_that_is_over_cuts_a_peer_off_while_the_node_runs(site: Site) -> None:
    assert soon(lambda: site.peer("alice")["connected"], seconds=30)
    reader = site.read_events()
    assert soon(lambda: bool(site.events("snapshot")))
    end = datetime.now(UTC) + timedelta(seconds=3)
    site.write("alice", f"{site.alice}expires = {end.isoformat()}\n")
    assert soon(lambda: site.peer("alice")["expires"] is not None)
    assert site.peer("alice")["barred"] == "" and not site.events("peer_disconnected")
    assert soon(lambda: bool(site.events("peer_disconnected")), seconds=20)
    assert time.time() >= end.timestamp()
    assert site.peer("alice")["barred"] == "expired"
    site.write("alice", site.alice)
    assert soon(lambda: site.peer("alice")["connected"], seconds=30)
    reader.stop()


def test_file_that_is_wrong_or_half_written_takes_nothing_away(site: Site) -> None:
    assert soon(lambda: site.peer("alice")["connected"], seconds=30)
    disconnected = len(site.listener.events("peer_disconnected"))
    site.write("bad", 'id = "Qm"\n')
    fault = site.listener.wait_event("peer_file_rejected")
    assert fault["error"].startswith(f"{site.peers}/bad.toml:1: id: 'Qm' is not a peer ID")
    with (site.peers / "alice.toml").open("w") as file:
        file.write("# the ID is still to come\n")
        file.flush()
        site.write("other", f'id = "{PeerId(b"x" * 32)}"\n')
        assert soon(lambda: any(peer["name"] == "other" for peer in site.listener.status()["peers"]))
        assert site.peer("alice")["connected"]
        file.write(site.alice)
    (site.peers / "bad.toml").unlink()
    (site.peers / "other.toml").unlink()
    assert soon(lambda: {peer["name"] for peer in site.listener.status()["peers"]} == {"alice", "away"})
    assert len(site.listener.events("peer_disconnected")) == disconnected


def test_directory_that_is_gone_takes_nobody_away_and_counts_when_it_is_back(site: Site) -> None:
    assert soon(lambda: site.peer("alice")["connected"], seconds=30)
    elsewhere = site.peers.with_name("elsewhere")
    reloads = len(site.listener.events("config_reloaded"))
    site.peers.rename(elsewhere)
    (elsewhere / "away.toml").unlink()
    site.listener.reload()
    assert site.listener.wait_event("config_rejected")["error"].startswith("cannot read the peers in --allow-peer-dir")
    assert site.peer("alice")["connected"] and site.peer("away")
    elsewhere.rename(site.peers)
    site.listener.wait_event("config_reloaded", count=reloads + 1)
    assert {peer["name"] for peer in site.listener.status()["peers"]} == {"alice"}
    site.write("later", f'id = "{AWAY}"\n')
    assert soon(lambda: len(site.listener.status()["peers"]) == 2)
    assert site.peer("alice")["connected"]


def test_events_end_with_the_node(site: Site) -> None:
    reader = site.read_events()
    assert soon(lambda: bool(site.events("snapshot")))
    assert site.listener.stop() == 0
    assert reader.wait() == 0
    assert site.events("node_stopped")[0]["change"] == "down"
