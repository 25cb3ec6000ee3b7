"""A table as it looks best where it goes: boxes on a terminal, else Markdown."""

from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table

_NO_TERMINAL_WIDTH = 1000


def open_console(file: IO[str] | None = None) -> Console:
    """Standard output or a file; nothing is folded that is not read on a terminal."""
    console = Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _NO_TERMINAL_WIDTH
    return console


def print_table(table: Table, console: Console) -> None:
    """Print one that has rows."""
    if not table.row_count:
        return
    if console.is_terminal:
        table.box = box.SIMPLE_HEAD
        console.print(table)
        return
    table.box = box.MARKDOWN
    with console.capture() as drawn:
        console.print(table)
    console.out(drawn.get().strip() + "\n")  # its box has empty edges
