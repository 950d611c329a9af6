"""What all tests share: the run in private namespaces, and a lab for those that build networks."""

from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from cryprq.protocol import liboqs
from lab import hosts, sandbox
from tests.rigs import fake_liboqs, planes

# How long an example takes is the machine's affair: some of them wait for the disk.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything starts a thread: the whole run gets a network and a /run of its own, where that is allowed."""
    sandbox.enter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with the mark ``netns``, or with the ``lab`` fixture, are skipped where namespaces are refused."""
    reason = sandbox.enter()
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.netns)
        if reason is not None and item.get_closest_marker("netns"):
            item.add_marker(pytest.mark.skip(reason=f"no network namespaces: {reason}"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[hosts.Lab]:
    """An empty lab; the logs of its processes are part of the report of a failed test."""
    with hosts.Lab(tmp_path) as lab:
        yield lab


@pytest.fixture(name="fake_liboqs")
def fake_liboqs_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KEM that needs liboqs works on a machine that has none."""
    monkeypatch.setattr(liboqs, "load", lambda: fake_liboqs)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, hosts.Lab):
        for name, text in lab.logs().items():
            report.sections.append((f"log of {name}", "\n".join(text.splitlines()[-60:])))
    return report


@pytest.fixture
def bench() -> Iterator[planes.Bench]:
    """A data plane with the test as its peer."""
    bench = planes.Bench()
    yield bench
    bench.close()
