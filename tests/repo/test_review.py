"""The table of a review's points in docs/security.md: every test that it names is there."""

import re

from lab import ROOT

TABLE = (ROOT / "docs" / "security.md").read_text().partition("## What a review asked for")[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ROWS = [line.split("|")[1:-1] for line in TABLE.splitlines() if line.startswith("| ") and "`tests/" in line]


def test_every_point_has_tests_that_exist() -> None:
    assert len(ROWS) == 20, "a row names no test"
    assert [int(number) for number, *_ in ROWS if number.strip()] == list(range(1, 8))
    for _, point, tests, _ in ROWS:
        named = NAMED.findall(tests)
        assert named and len(named) == tests.count("`") // 2, point
        for file, test in named:
            assert re.search(rf"^(?:async )?def {test}\(", (ROOT / file).read_text(), re.M), f"{file}: {test}"
