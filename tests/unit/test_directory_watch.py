"""Notices about a directory: told when something is complete, and not before."""

import os
import select
import shutil
from pathlib import Path

import pytest

from cryprq.linux.directory_watch import DirectoryWatch


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "peers.d"
    path.mkdir()
    (path / "old.toml").write_text("id = 1\n")
    return path


def changed(watch: DirectoryWatch) -> bool:
    assert select.select([watch.fileno()], [], [], 5)[0]
    return watch.changed()


def test_file_counts_when_it_is_closed(directory: Path) -> None:
    watch = DirectoryWatch(directory)
    with open(directory / "new.toml", "w") as file:
        file.write("id = ")
        file.flush()
        assert not changed(watch)
        assert watch.unfinished == {"new.toml"}
        file.write("2\n")
        file.flush()
        assert not changed(watch)
    assert changed(watch)
    assert watch.unfinished == frozenset()
    watch.close()


def test_renames_links_and_removals_count_at_once(directory: Path) -> None:
    watch = DirectoryWatch(directory)
    hidden = directory.parent / "hidden"
    hidden.write_text("id = 3\n")
    for act in (
        lambda: hidden.rename(directory / "new.toml"),
        lambda: (directory / "link.toml").symlink_to("old.toml"),
        lambda: os.link(directory / "old.toml", directory / "hard.toml"),
        lambda: (directory / "old.toml").rename(directory / "old.toml~"),
        lambda: (directory / "new.toml").unlink(),
    ):
        act()
        assert changed(watch)
        assert watch.unfinished == frozenset() and not watch.gone
    watch.close()
    watch.close()


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_directory_that_goes(directory: Path, how: str) -> None:
    watch = DirectoryWatch(directory)
    if how == "removed":
        shutil.rmtree(directory)
    else:
        directory.rename(directory.parent / "elsewhere")
    assert changed(watch) and watch.gone
    watch.close()


def test_what_is_no_directory(directory: Path) -> None:
    for path in (directory / "none", directory / "old.toml"):
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            DirectoryWatch(path)
