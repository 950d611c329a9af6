"""``cryprq top``: the peers of a node and their traffic, live, on a terminal.

The only module that needs Textual, which is an extra (``pip install 'cryprq[top]'``).
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.widgets import DataTable, Footer, Input, Static

from cryprq.cli import admin_client
from cryprq.cli.traffic import COLUMNS, SORTS, Row, Traffic
from cryprq.errors import MachineError

STYLES: Final = {"up": "green", "silent": "bold red", "disabled": "dim", "expired": "dim"}


class Top(App[None]):
    """Asks the node behind an admin socket every so many seconds, and shows what it says."""

    CSS = """
    #head { height: 1; text-style: bold; }
    #said { height: 1; color: $warning; }
    #pattern { display: none; height: 1; border: none; }
    #pattern.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("r", "rotate", "rotate keys"),
        Binding("d", "disable", "disable or enable"),
        Binding("s", "sort", "sort"),
        Binding("slash", "filter", "filter"),
        Binding("escape", "unfilter", "all", show=False),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, path: Path, every: float) -> None:
        super().__init__()
        self._path = path
        self._every = every
        self._traffic = Traffic()
        self._rows: list[Row] = []
        self._sorted_by = SORTS[0]
        self._pattern = ""
        self._armed = ""

    def compose(self) -> ComposeResult:
        """The screen, from the top down."""
        yield Static(id="head", markup=False)
        yield DataTable[Text](id="peers", cursor_type="row", zebra_stripes=True)
        yield Input(id="pattern", placeholder="name, ID, address, group or state")
        yield Static(id="said", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """The screen is there."""
        for column in COLUMNS:
            self._table.add_column(column, key=column)
        self._table.focus()
        self.run_worker(self._follow())

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#peers", DataTable)

    # ---- the node ----

    async def _follow(self) -> None:
        with contextlib.suppress(NoMatches):  # the screen is gone: it ends
            while True:
                await self._look()
                await asyncio.sleep(self._every)

    async def _look(self) -> None:
        status = await self._ask("status", measure=True)
        if status is not None:
            self._traffic.take(status)
            self._draw()

    async def _ask(self, command: str, **arguments: object) -> Any:
        """What the node answers; None, and a line that says why, if it does not."""
        try:
            return await asyncio.to_thread(admin_client.request, self._path, command, **arguments)
        except MachineError as error:
            self._say(str(error))
            return None

    # ---- the screen ----

    def _say(self, text: str) -> None:
        self.query_one("#said", Static).update(text)

    def _draw(self) -> None:
        chosen = self._chosen()
        self._rows = self._traffic.rows(sort=self._sorted_by, pattern=self._pattern)
        self.query_one("#head", Static).update(self._traffic.head())
        table, scrolled = self._table, self._table.scroll_y
        table.clear()
        for row in self._rows:
            style = STYLES.get(row.state, "")
            table.add_row(*(Text(cell, style if at == 1 else "") for at, cell in enumerate(row.cells)))
        at = next((at for at, row in enumerate(self._rows) if chosen and row.peer_id == chosen.peer_id), 0)
        table.move_cursor(row=at, scroll=False)
        table.scroll_to(y=scrolled, animate=False)

    def _chosen(self) -> Row | None:
        at = self._table.cursor_row
        return self._rows[at] if 0 <= at < len(self._rows) else None

    # ---- keys ----

    async def action_rotate(self) -> None:
        """Fresh keys with the peer under the cursor."""
        if (row := self._chosen()) is not None and await self._ask("rotate", peer=row.peer_id) is not None:
            self._say(f"rotation started with {row.label}")

    async def action_disable(self) -> None:
        """Cuts the peer under the cursor off, if the key comes twice; or lets it connect again."""
        row = self._chosen()
        if row is None:
            return
        do = "enable" if row.barred == "disabled" else "disable"
        if do == "disable" and self._armed != row.peer_id:
            self._armed = row.peer_id
            self._say(f"d again cuts {row.label} off")
            return
        self._armed = ""
        if await self._ask("peer", do=do, peer=row.peer_id) is not None:
            self._say(f"{row.label} is {do}d")
            await self._look()

    def action_sort(self) -> None:
        """By something else."""
        self._sorted_by = SORTS[(SORTS.index(self._sorted_by) + 1) % len(SORTS)]
        self._say(f"sorted by {self._sorted_by}")
        self._draw()

    def action_filter(self) -> None:
        """Asks for a pattern."""
        pattern = self.query_one("#pattern", Input)
        pattern.add_class("open")
        pattern.focus()

    def action_unfilter(self) -> None:
        """All peers again."""
        pattern = self.query_one("#pattern", Input)
        pattern.value = ""
        pattern.remove_class("open")
        self._table.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """While it is typed."""
        self._pattern = event.value
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The pattern stays, and keys are keys again."""
        event.input.set_class(bool(event.value), "open")
        self._table.focus()


def run(path: Path, every: float) -> None:
    """Until somebody quits. MachineError, one line, if there is no node at the start."""
    admin_client.request(path, "status")
    Top(path, every).run()
