"""Alert rules and dashboard against the real thing: Debian's Prometheus, scraping two nodes that are at work."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from lab import ROOT
from lab.hosts import Lab, Namespace
from lab.nodes import Node
from lab.tunnels import GATEWAY, OUTER, make_tunnel

RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "cryprq.json"
UNPACKED = Path(os.environ.get("VIRTUAL_ENV", ROOT / ".venv")) / "prometheus" / "usr" / "bin"
"""Where scripts/bootstrap.sh --tests puts Debian's prometheus."""
API = "127.0.0.1:9090"


def program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path=str(UNPACKED))
    assert path is not None, f"no {name}: scripts/bootstrap.sh --tests brings it, or the package prometheus"
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "cryprq.rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "cryprq.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=RULES, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout + done.stderr


def test_every_alert_has_a_case_and_a_line_for_whom_it_wakes() -> None:
    rules, cases = (RULES / name for name in ("cryprq.rules.yml", "cryprq.test.yml"))
    guide = (ROOT / "docs" / "operations.md").read_text().split("\n### Alerts\n")[1].split("\n## ")[0]
    alerts = [line.split()[-1] for line in rules.read_text().splitlines() if "- alert:" in line]
    fired = cases.read_text().split("exp_alerts")
    for alert in alerts:
        assert any(part.rstrip().endswith(f"alertname: {alert}") for part in fired[:-1]), alert
    assert re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE) == alerts


class Prometheus:
    """A server in a namespace that scrapes both ends of a tunnel every half second."""

    def __init__(self, host: Namespace) -> None:
        self._host = host
        directory = host.directory / "prometheus"
        directory.mkdir()
        shutil.copy(RULES / "cryprq.rules.yml", directory)
        targets = [f"{address}:9464" for address in ("127.0.0.1", OUTER[4][1])]
        config = (RULES / "prometheus.yml").read_text().replace('["127.0.0.1:9464"]', json.dumps(targets))
        (directory / "prometheus.yml").write_text(config.replace("15s", "500ms"))
        host.start(
            "prometheus", program("prometheus"), f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={API}",
        ).wait_for("Server is ready", timeout=20)  # fmt: skip

    def get(self, path: str, **parameters: str) -> Any:
        """The ``data`` of an answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with self._host.entered():
            with opener.open(f"http://{API}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
                body = json.load(answer)
        # What is only worth knowing, such as an interpolation between buckets, was among the warnings before version 3.
        warnings = [each for each in body.get("warnings", ()) if not each.startswith("PromQL info:")]
        assert body["status"] == "success" and not warnings, body
        return body["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query."""
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result

    def wait(self, expression: str, timeout: float = 15.0) -> list[dict[str, Any]]:
        """The first result of a query that is not empty, and in which there is a number."""
        end = time.monotonic() + timeout
        while True:
            result = self.query(expression)
            if any(sample["value"][1] != "NaN" for sample in result):
                return result
            assert time.monotonic() < end, f"nothing comes of {expression}"
            time.sleep(0.2)


@pytest.fixture
def prometheus(lab: Lab) -> Prometheus:
    """Handshake, traffic, a rotation and a stranger: all of it was seen."""
    flags = ("--rotate-secs", "5", "--metrics-addr", "0.0.0.0:9464")
    tunnel = make_tunnel(lab, listen=flags, dial=flags)
    server = Prometheus(tunnel.listener.namespace)
    server.wait("count(cryprq_build_info) == 2")
    tunnel.dialer.stop()
    tunnel.dialer.start().wait_event("peer_connected")
    stranger = Node(tunnel.dialer.namespace, "--peer", tunnel.listener.multiaddr(OUTER[4][0]), name="stranger")
    stranger.start("--tun-name", "other0", "--metrics-addr", "127.0.0.1:9465")
    tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=20, interval=0.05)
    server.wait("cryprq_rotations_total > 0")
    server.wait("increase(cryprq_handshakes_success_total[20s]) > 0")
    server.wait("cryprq_peers_denied_total > 0")
    return server


def test_dashboard_and_alerts_against_nodes_at_work(prometheus: Prometheus) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 20
    variables = {"$__rate_interval": "10s", "$instance": ".*"}
    for expression in expressions:
        for name, value in variables.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        prometheus.wait(expression, timeout=8)
    (instances,) = [each["query"]["query"] for each in dashboard["templating"]["list"] if each["name"] == "instance"]
    metric, label = instances.removeprefix("label_values(").rstrip(")").split(", ")
    assert len({sample["metric"][label] for sample in prometheus.query(metric)}) == 2
    # The stranger, and nothing else, is worth an alert.
    assert prometheus.wait('ALERTS{alertname="CryprqPeersDenied",alertstate="firing"}')
    (group,) = prometheus.get("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    firing = {sample["metric"]["alertname"] for sample in prometheus.query('ALERTS{alertstate="firing"}')}
    assert firing == {"CryprqPeersDenied"}
    # An expression over a metric that does not exist is never true, and no checker complains.
    rules = (RULES / "cryprq.rules.yml").read_text()
    used = set(re.findall(r"\bcryprq_\w+", rules))
    assert len(used) >= 8 and used <= set(prometheus.get("label/__name__/values"))
