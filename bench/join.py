"""How long it takes from a token to a tunnel: ``cryprq invite`` on one host, ``cryprq join`` and a ping on another.

Two hosts in network namespaces on a cable. The time runs from the first command to the answer of the ping, with the
start of each program, the identity, the node and its TUN device in it. Prints JSON.

    bench/join.py                     5 rounds
    bench/join.py --max-seconds 5     exit status 1 if the median is above that
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import environment
from bench.options import amount, count
from lab import hosts, sandbox
from lab.nodes import PROGRAMS, Node
from lab.progress import steps

HERE, THERE, GATEWAY = "192.0.2.1", "192.0.2.2", "10.66.0.1"


def measure(rounds: int) -> list[dict[str, float]]:
    """Seconds that each step has taken, by its name, in each round."""
    found = []
    for number in steps(range(rounds), "join", "rounds"):
        with tempfile.TemporaryDirectory() as directory, hosts.Lab(Path(directory)) as lab:
            gateway, host = lab.namespace("gateway"), lab.namespace("host")
            lab.veth(gateway, (f"{HERE}/24",), host, (f"{THERE}/24",))
            node = Node(gateway, "--listen", "/ip4/0.0.0.0/udp/9999/quic-v1", "--tun-address", f"{GATEWAY}/24")
            node.start().wait_event("listener_ready")
            tool = ("env", f"RUNTIME_DIRECTORY={directory}", f"CRYPRQ_IDENTITY={directory}/new", f"{PROGRAMS}/cryprq")
            times = [time.monotonic()]
            token = node.tool("invite", f"host-{number}").strip()
            times.append(time.monotonic())
            try:
                host.run(*tool, "join", token, "--config", f"{directory}/new.toml")
                times.append(time.monotonic())
                host.run("ping", "-c", "1", "-W", "5", GATEWAY)
                times.append(time.monotonic())
            finally:
                host.run(*tool, "down")
            took = dict(zip(("invite", "join", "ping"), (b - a for a, b in itertools.pairwise(times)), strict=True))
            found.append({**took, "all": times[-1] - times[0]})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=count, default=5, metavar="N")
    parser.add_argument("--max-seconds", type=amount, metavar="SECS")
    options = parser.parse_args()
    if (reason := sandbox.enter()) is not None:
        parser.error(f"no network namespaces: {reason}")
    found = measure(options.rounds)
    medians = {step: round(statistics.median(each[step] for each in found), 3) for step in found[0]}
    print(
        json.dumps({"environment": environment(), "seconds": medians, "worst": round(max(e["all"] for e in found), 3)})
    )
    return int(options.max_seconds is not None and medians["all"] > options.max_seconds)


if __name__ == "__main__":
    sys.exit(main())
