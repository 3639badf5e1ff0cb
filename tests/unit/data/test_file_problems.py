"""Why files are not read: one line for each reason, with files and rows."""

from iak.pipeline.data.file_problems import by_reason, file_problems
from iak.pipeline.data.snapshot import Unreadable
from tests.builders import DAYS, draw_rows, small_catalog, snapshot_of, write_file, write_log

CATALOG = small_catalog()


def test_files_are_not_read_for_one_reason_a_line_with_their_rows(tmp_path):
    root = tmp_path / "events"
    write_log(
        root, [("ningbo", DAYS[0], [4, 3]), ("ningbo", DAYS[1], [5]), ("hangzhou", DAYS[0], [6])]
    )
    for number in (1, 2):
        write_file(
            root / f"region=ningbo/dt=2026-10-02/late-{number}.parquet",
            draw_rows(5).drop_columns(["price"]),
        )
    (root / "region=ningbo/dt=2026-10-02/cut.parquet").write_bytes(b"PAR1")
    (root / "region=ningbo/dt=2026-10-02/notes.txt").write_text("note")
    messages = [p.message for p in file_problems(snapshot_of(root, CATALOG))]
    assert messages == [
        "2 of 6 files lack price (10 rows)",
        "1 of 6 files: no whole Parquet file: 4 bytes are too few for Parquet",
        "1 ignored: no Parquet: it begins with b'note', not PAR1",
    ]


def test_numbers_in_a_reason_do_not_make_another_reason():
    reasons = ["12 bytes", "page 3 of 7", "1,024 bytes", "gone"]
    files = [Unreadable(path=f"{n}", reason=reason) for n, reason in enumerate(reasons)]
    assert [[f.path for f in same] for same in by_reason(files)] == [["0", "2"], ["1"], ["3"]]


def test_columns_whose_names_differ_by_a_number_make_another_reason():
    lacking = [("hist_1",), ("hist_2",), ("hist_1",)]
    files = [
        Unreadable(path=f"{n}", reason=f"missing columns: {columns[0]}", missing=columns)
        for n, columns in enumerate(lacking)
    ]
    assert [[f.path for f in same] for same in by_reason(files)] == [["0", "2"], ["1"]]
