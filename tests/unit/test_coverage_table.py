"""The table of open_clip's configurations: how it grows, and that each row says enough."""

from pathlib import Path

from bench.coverage.row import TABLE, Row, read_rows, write_rows

TAKEN = Row(
    model="b, with a comma", outcome="taken", image="1.2e-07", text="1.0e-07", pieces="1 1 1 1"
)
REFUSED = Row(model="A", outcome="refused", reason="it is a CoCa model")


def test_rows_are_kept_by_a_run_that_adds_one(tmp_path: Path) -> None:
    """What was measured once is read back whole, and stands at its place in the alphabet."""
    table = tmp_path / "coverage.csv"
    assert read_rows(table) == {}

    write_rows(table, [TAKEN])
    write_rows(table, [*read_rows(table).values(), REFUSED])

    assert list(read_rows(table).values()) == [REFUSED, TAKEN]


def test_each_row_says_enough() -> None:
    """Who is taken is as close as the gate asks, and whoever is not, or is cut, says why."""
    rows = read_rows(TABLE).values()
    assert rows
    for row in rows:
        if row.outcome == "taken":
            assert max(float(row.image), float(row.text)) <= 1e-5, row
            assert len(row.pieces.split()) == 4, row
            assert (row.pieces == "1 1 1 1") or row.cut, row
            assert row.measured, row
        assert bool(row.reason) == (row.outcome != "taken"), row
