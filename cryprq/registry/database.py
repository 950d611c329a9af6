"""The SQLite database of a registry: its schema, and what each call does to the file. It blocks: for one thread.

A commit is in the write-ahead log and synced when it returns (WAL, synchronous=FULL), or it has not happened. Every row
has a checksum, which SQLite's pages have not: what has rotted is found when it is loaded, and is not served.
"""

import contextlib
import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cryprq.registry.memory import changes_of
from cryprq.registry.store import (
    ABSENT,
    Batch,
    Change,
    Compacted,
    Conflict,
    Contents,
    Damaged,
    Denied,
    Entry,
    Expect,
    Note,
    Op,
    StoreError,
    Unavailable,
    Unknown,
)

APPLICATION_ID: Final = 0x43525251
""""CRRQ": what ``file`` and SQLite know the database by."""
BUSY_TIMEOUT: Final = 2.0
"""Seconds that another process may hold the database."""
BUSY_RETRY: Final = 0.005
LOG_MAX: Final = 4096
"""Commits that a watch can go back: a node misses more only while it stands still."""
NOTES_MAX: Final = 10_000
"""Lines of the audit trail."""
PROBE_SIZE: Final = 65_536
"""Bytes for which there has to be room: a commit is some pages in the write-ahead log."""

MIGRATIONS: Final[Sequence[str]] = (
    """
    CREATE TABLE entries (
        key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE log (
        revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, PRIMARY KEY (revision, key)
    ) WITHOUT ROWID;
    CREATE TABLE audit (at REAL NOT NULL, who TEXT NOT NULL, did TEXT NOT NULL, number INTEGER PRIMARY KEY);
    CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO state VALUES ('revision', 0), ('compacted', 0);
    """,
    # The tables stay. What an entry of a peer can say is more: a version that does not know of pre-shared keys would
    # let the peer in without, so it is not to open the file.
    "-- psk_file, successor",
)
"""Each makes a schema of the next version; ``user_version`` counts those that were done."""

_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_READ_ONLY: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


class Database:
    """One connection to the file, which is made by the first commit: as long as nothing was to be kept, there is
    none."""

    def __init__(self, path: Path, *, log_max: int = LOG_MAX, notes_max: int = NOTES_MAX) -> None:
        self._path = path
        self._log_max = log_max
        self._notes_max = notes_max
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def load(self) -> Contents:
        """All that is there; StoreError."""
        with self._errors("read"):
            connection = self._open(make=False)
            if connection is None:
                return Contents(0, {})
            connection.execute("BEGIN")
            try:
                (sound,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                rows = connection.execute("SELECT key, value, version, checksum FROM entries").fetchall()
                revision = _state(connection, "revision")
            finally:
                connection.execute("ROLLBACK")
        entries = {key: Entry(value, version) for key, value, version, _ in rows}
        wrong = [row for row in rows if not isinstance(row[1], bytes) or _checksum(*row[:3]) != row[3]]
        if sound != "ok" or wrong or any(entry.version > revision for entry in entries.values()):
            raise self._damaged()
        return Contents(revision, entries)

    def batches(self, after: int) -> list[Batch]:
        """Every commit after that revision. Compacted if they are not known any more."""
        with self._errors("read"):
            connection = self._open(make=False)
            if connection is None and after == 0:
                return []
            if connection is None:
                raise Compacted(f"there is no {self._path}")
            connection.execute("BEGIN")
            try:
                revision, compacted = _state(connection, "revision"), _state(connection, "compacted")
                rows = connection.execute(
                    "SELECT revision, key, value FROM log WHERE revision > ? ORDER BY revision", (after,)
                ).fetchall()
            finally:
                connection.execute("ROLLBACK")
        found: dict[int, list[Change]] = {}
        for number, key, value in rows:
            found.setdefault(number, []).append(Change(key, value))
        if not compacted <= after <= revision:
            raise Compacted(f"what followed revision {after} of {self._path} is not known any more")
        return [Batch(number, tuple(found.get(number, ()))) for number in range(after + 1, revision + 1)]

    def commit(self, ops: tuple[Op, ...], note: Note | None) -> int:
        """Does all or nothing; returns the revision when it is on the disk. StoreError."""
        with self._errors("write"):
            connection = self._open(make=True)
            assert connection is not None
            connection.execute("BEGIN IMMEDIATE")
            try:
                revision = self._write(connection, ops, note)
                self._finish(connection)
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise
            return revision

    def notes(self, limit: int) -> list[Note]:
        """The newest lines of the audit trail, the oldest first."""
        with self._errors("read"):
            connection = self._open(make=False)
            if connection is None:
                return []
            rows = connection.execute("SELECT at, who, did FROM audit ORDER BY number DESC LIMIT ?", (limit,))
            return [Note(at=at, who=who, did=did) for at, who, did in rows][::-1]

    def data_version(self) -> object:
        """Another value if another process has committed."""
        with self._errors("read"):
            connection = self._open(make=False)
            if connection is None:
                return None
            return connection.execute("PRAGMA data_version").fetchone()

    def probe(self) -> None:
        """Returns if a commit could be written; Unavailable says why not."""
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.probe")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                left = b"\n" * PROBE_SIZE
                while left:
                    left = left[os.write(descriptor, left) :]
            finally:
                os.close(descriptor)
                os.unlink(temporary)
            if self._path.exists() and not os.access(self._path, os.W_OK):
                raise PermissionError(13, os.strerror(13))
        except OSError as error:
            raise Unavailable(f"cannot write the registry {self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Gives the file back: what the log holds goes into the database."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = self._inode = None

    # ---- opening ----

    def _open(self, *, make: bool) -> sqlite3.Connection | None:
        if self._connection is not None:
            if self._replaced():  # what is written to the old one is nowhere
                raise Unavailable(
                    f"the registry {self._path} was replaced or removed while it is in use: restart the node"
                )
            return self._connection
        if not make and not self._is_there():
            return None
        self._make_file()
        self._refuse_others()
        connection = self._connect()
        try:
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        status = os.stat(self._path)
        self._inode = (status.st_dev, status.st_ino)
        return connection

    def _is_there(self) -> bool:
        """Whether there is more than what another process has just begun to make."""
        try:
            return os.stat(self._path).st_size > 0
        except FileNotFoundError:
            return os.path.islink(self._path)
        except OSError:
            return True  # SQLite says why it cannot be read

    def _make_file(self) -> None:
        """An empty file, for its owner only. Made by root, it is whose the directory is: the node may run as another
        user."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return
        except OSError as error:
            raise Unavailable(f"cannot write the registry {self._path}: {error.strerror}") from None
        try:
            if os.geteuid() == 0:
                owner = os.stat(self._path.parent)
                with contextlib.suppress(OSError):
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
        finally:
            os.close(descriptor)

    def _refuse_others(self) -> None:
        """Whoever can write the file decides who may connect."""
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(os.stat(self._path).st_mode)
            if mode & 0o022:
                raise Denied(f"others may write the registry {self._path} (mode {mode:04o}): chmod 600 {self._path}")

    def _connect(self) -> sqlite3.Connection:
        """WAL, where it can be written. In a directory that is read-only, and that no log is left in, SQLite reads the
        file alone."""
        address = self._path.absolute().as_uri()
        log = self._path.with_name(self._path.name + "-wal")
        frozen = not os.access(self._path.parent, os.W_OK) and not log.exists()
        connection = sqlite3.connect(
            f"{address}?mode=ro&immutable=1" if frozen else f"{address}?mode=rw",
            uri=True,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,  # opened in one thread and closed in another, never used by two at once
        )
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA trusted_schema=OFF")
            if not frozen and os.access(self._path, os.W_OK):
                self._write_ahead(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """It wants the file for itself for a moment, and SQLite does not wait for that one."""
        end = time.monotonic() + BUSY_TIMEOUT
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if not _is(error, (sqlite3.SQLITE_BUSY,)) or time.monotonic() > end:
                    raise
            time.sleep(BUSY_RETRY)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == len(MIGRATIONS):
            return
        if 0 < version < len(MIGRATIONS) and not os.access(self._path, os.W_OK):
            return  # it is read as it is: the tables are those of the first schema
        if version > len(MIGRATIONS):
            raise Damaged(
                f"the registry {self._path} is of a newer CrypRQ (schema {version}, and this one knows"
                f" {len(MIGRATIONS)}): use that version, or restore a copy from before"
            )
        connection.execute("BEGIN IMMEDIATE")
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have been quicker
            if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
                raise self._damaged()
            for step in MIGRATIONS[version:]:
                for statement in step.split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _replaced(self) -> bool:
        try:
            status = os.stat(self._path)
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._inode

    # ---- writing ----

    def _write(self, connection: sqlite3.Connection, ops: tuple[Op, ...], note: Note | None) -> int:
        expected = {op.key: op.version for op in ops if isinstance(op, Expect)}
        there = {key: _entry(connection, key) for key in expected}
        if any((entry.version if entry is not None else ABSENT) != expected[key] for key, entry in there.items()):
            raise Conflict("somebody else was quicker", there)
        revision = _state(connection, "revision") + 1
        compacted = max(_state(connection, "compacted"), revision - self._log_max)
        connection.execute("UPDATE state SET value = ? WHERE name = 'revision'", (revision,))
        connection.execute("UPDATE state SET value = ? WHERE name = 'compacted'", (compacted,))
        for change in changes_of(ops):
            if change.value is None:
                connection.execute("DELETE FROM entries WHERE key = ?", (change.key,))
            else:
                row = (change.key, change.value, revision, _checksum(change.key, change.value, revision))
                connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", row)
            connection.execute("INSERT INTO log VALUES (?, ?, ?)", (revision, change.key, change.value))
        connection.execute("DELETE FROM log WHERE revision <= ?", (compacted,))
        if note is not None:
            connection.execute("INSERT INTO audit (at, who, did) VALUES (?, ?, ?)", (note.at, note.who, note.did))
            connection.execute(
                "DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?", (self._notes_max,)
            )
        return revision

    def _finish(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction or not _is(error, (sqlite3.SQLITE_IOERR,)):
                raise
            raise Unknown(f"the registry {self._path} may have been written or not: {error}") from None

    # ---- what goes wrong ----

    def _damaged(self) -> Damaged:
        return Damaged(
            f"the registry {self._path} is damaged; restore a copy, or move it away with its -wal and -shm"
            " to begin anew"
        )

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # ours to mend
        except sqlite3.Error as error:
            raise self._store_error(error, what) from None
        except UnicodeDecodeError:
            raise self._damaged() from None

    def _store_error(self, error: sqlite3.Error, what: str) -> StoreError:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None or _is(error, (*_DAMAGE, sqlite3.SQLITE_ERROR)):
            return self._damaged()  # not sound, or the schema is not ours
        if _is(error, (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)):
            return Unavailable(f"another process has held the registry {self._path} for {BUSY_TIMEOUT:.0f} s")
        if _is(error, _READ_ONLY) and os.path.lexists(self._path) and not os.access(self._path, os.R_OK):
            return Denied(f"cannot {what} the registry {self._path}: {os.strerror(13)}; use its owner or root")
        return Unavailable(f"cannot {what} the registry {self._path}: {error}")


def _is(error: sqlite3.Error, codes: Sequence[int]) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in codes  # the rest of an extended code says more of the same


def _state(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
    if row is None or not isinstance(row[0], int):
        raise sqlite3.DatabaseError(f"there is no {name}")
    return row[0]


def _entry(connection: sqlite3.Connection, key: str) -> Entry | None:
    row = connection.execute("SELECT value, version FROM entries WHERE key = ?", (key,)).fetchone()
    return None if row is None else Entry(*row)


def _checksum(key: str, value: bytes, version: int) -> int:
    return zlib.crc32(b"%b\0%d\0%b" % (key.encode(), version, value))
