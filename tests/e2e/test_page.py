"""The page of ``--metrics-addr`` in a real browser: what it shows of a real tunnel, and of what a lab cannot have."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cryprq.telemetry.samples import NodeStatus, PeerSample
from lab.browser import Browser
from lab.hosts import Lab
from lab.served import served
from lab.tunnels import GATEWAY, OUTER, make_tunnel

ODD = '<img src="http://192.0.2.1/x" onerror="odd=1"><script>odd=1</script>'
ROWS = "[...document.querySelectorAll('#rows tr')]"
NAMES = f"{ROWS}.map(row => row.querySelector('.name').textContent)"


def soon(browser: Browser, expression: str) -> Any:
    """Waits for a value of the page, which asks the node as often as there may be news."""
    return browser.wait(f"ask().then(status => {{ if (status.time !== last.time) take(status); return {expression} }})")


def test_both_ends_of_a_tunnel_are_shown_and_move(lab: Lab) -> None:
    flags = ("--metrics-addr", "0.0.0.0:9464", "--rotate-secs", "5")
    tunnel = make_tunnel(lab, listen=flags, dial=(*flags, "--peer-name", "office=QmOffice"), up=False)
    tunnel.dialer.arguments[-3] = f"office={tunnel.listener.peer_id}"  # whose ID is known by now
    tunnel.start()
    ping = tunnel.dialer.namespace.traffic("ping", GATEWAY[4], count=400, interval=0.05)
    with Browser(tunnel.listener.namespace) as browser:
        for host, shown in (("127.0.0.1", tunnel.dialer.peer_id[:10]), (OUTER[4][1], "office")):
            url = f"http://{host}:9464/"
            browser.open(url)
            assert browser.wait(NAMES)[0].startswith(shown)
            assert browser.evaluate(f"{ROWS}[0].querySelector('.state').textContent") == "up"
            soon(browser, "/[1-9].* k?B\\/s/.test($('in').textContent) && /[1-9]/.test($('out').textContent)")
            before = soon(browser, "(line => line.includes('L') && line)(traffic.lines[2].getAttribute('d'))")
            soon(browser, f"traffic.lines[2].getAttribute('d') !== {before!r}")
            assert browser.evaluate("$('health').textContent + $('up').textContent") == "healthy1"
            assert url in browser.requests() and f"{url}status.json" in browser.requests()
        now = browser.evaluate("last.time")
        browser.wait(f"last.time > {now}")  # without being told to
        soon(browser, "last.rotations > 0 && keys.lines[1].getAttribute('d').includes('L')")
        assert browser.faults() == []
        assert {url.split("/")[2] for url in browser.requests()} == {"127.0.0.1:9464", f"{OUTER[4][1]}:9464"}
    ping.stop()


class Made:
    """A node that says what a test wants to see."""

    def __init__(self) -> None:
        self.status = NodeStatus(
            version="1", peer_id="QmSelf", tun_name="cryprq0", uptime_secs=0.0, healthy=True, time=1e9
        )

    def peers(self, *peers: PeerSample) -> None:
        self.status = replace(self.status, peers=peers)

    def ask(self) -> NodeStatus:
        self.status = replace(self.status, time=self.status.time + 2)
        return self.status


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def browser(made: Made) -> Iterator[Browser]:
    with served(made.ask, lambda: {"rotations": 1, "rotate_secs": 300}) as url, Browser() as browser:
        browser.open(url)
        browser.wait("last")
        yield browser


def look(browser: Browser) -> None:
    """Asks now, not when it is time."""
    browser.evaluate("ask().then(take)")


def search(browser: Browser, text: str) -> Any:
    browser.evaluate(f"$('search').value = {text!r}, $('search').dispatchEvent(new Event('input'))")
    return browser.evaluate(NAMES)


@pytest.mark.netns
def test_whatever_the_node_says_is_text(made: Made, browser: Browser) -> None:
    odd = PeerSample(peer_id=ODD, name=ODD, connected=True, endpoint=ODD, aead=ODD, barred=ODD, epoch_age_secs=1.0)
    made.peers(odd)
    made.status = replace(made.status, tun_name=ODD, version=ODD, healthy=False, unhealthy=ODD)
    look(browser)
    assert browser.evaluate(NAMES) == [ODD]
    for id in ("device", "health"):
        assert browser.evaluate(f"$('{id}').textContent") == ODD
    assert browser.evaluate("document.images.length + document.scripts.length") == 1
    assert browser.evaluate("'odd' in window") is False
    assert browser.faults() == []
    assert not [url for url in browser.requests() if "192.0.2.1" in url]


@pytest.mark.netns
def test_policy_stops_what_got_in_all_the_same(browser: Browser) -> None:
    """Were there a hole: no script of it runs, and nothing goes elsewhere."""
    for attempt in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.head.appendChild(document.createElement('script')).textContent = 'odd = 1'",
        "setTimeout('odd = 1')",
        "await fetch('http://192.0.2.1/')",
    ):
        done = f"(async () => {{ try {{ {attempt}; return 'went' }} catch {{ return 'stopped' }} }})()"
        assert browser.evaluate(done) == "stopped", attempt
        assert browser.faults(), attempt


@pytest.mark.netns
def test_five_hundred_peers_are_searched_and_sorted(made: Made, browser: Browser) -> None:
    made.peers(
        *(
            PeerSample(peer_id=f"Qm{at:044}", name=f"host-{at:03}", connected=at % 2 == 0, rx_bytes=0, tx_bytes=at)
            for at in range(500)
        )
    )
    look(browser)
    assert browser.evaluate(f"{ROWS}.length") == 100
    assert browser.evaluate("$('more').click(), $('count').textContent") == "500"
    assert browser.evaluate(f"{ROWS}.length") == 200
    assert search(browser, "HOST-49") == [f"host-{at}" for at in range(490, 500)]
    assert browser.evaluate("$('count').textContent") == "10 of 500"
    made.peers(*(replace(peer, tx_bytes=3 * peer.tx_bytes) for peer in made.status.peers))
    look(browser)
    browser.evaluate("document.querySelectorAll('#head button')[6].click()")
    assert browser.evaluate(NAMES) == [f"host-{at}" for at in range(499, 489, -1)]
    assert browser.evaluate("document.querySelectorAll('#head th')[6].getAttribute('aria-sort')") == "descending"
    assert search(browser, "nobody") == []
    assert browser.evaluate("$('none').hidden") is False
    made.peers()
    look(browser)
    assert browser.evaluate("peers.size") == 0
    assert browser.faults() == []


@pytest.mark.netns
def test_node_that_is_ill_is_red_and_one_that_is_gone_is_missed(made: Made, browser: Browser) -> None:
    made.status = replace(made.status, healthy=False, unhealthy="worker 0 died")
    look(browser)
    assert browser.evaluate("[$('health').className, $('health').textContent]") == ["bad", "worker 0 died"]
    assert "h" in browser.evaluate("strip.lines[1].getAttribute('d')")
    assert browser.evaluate("document.title").startswith("! ")
    browser.evaluate("fetch = () => Promise.reject(new Error('gone')), ask()")
    assert browser.evaluate("$('health').textContent").startswith("no answer since ")
