"""Names from files in tables and files."""

import csv

import pytest

from istd.utils.errors import InputError
from istd.utils.files import read_table, write_csv, write_json, write_text
from istd.utils.metrics.tables import text_table
from istd.utils.names import counted, original_cell, table_cell

NOT_UTF8 = b"caf\xe9".decode("utf-8", "surrogateescape")  # as os.listdir gives it


def test_tables_on_a_terminal_hold_no_escapes():
    assert "\x1b" not in text_table([["name", "IoU"], ["\x1b[31mred", "1"]])


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@SUM(A1)"])
def test_a_spreadsheet_takes_no_name_for_a_formula(text):
    assert table_cell(text) == f"'{text}" and original_cell(table_cell(text)) == text


def test_other_cells_stay_as_they_are(tmp_path):
    for text in ("-1.5", "+3", "-1e-6", "frame", "'quoted", "1=1", "@"[:0]):
        assert table_cell(text) == text and original_cell(text) == text
    write_csv(tmp_path / "a.csv", ["name", "x"], [["=1+1", -1.5], [NOT_UTF8, float("nan")], ["a\x1b", None]])
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["name", "x"], ["'=1+1", "-1.5"], ["caf\\udce9", ""], ["a\\x1b", ""]]


def test_names_that_are_not_utf8_can_be_written(tmp_path):
    write_text(tmp_path / "page.html", f"<b>{NOT_UTF8}</b>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<b>caf\\udce9</b>"
    write_json(tmp_path / NOT_UTF8, {"name": NOT_UTF8})
    assert (tmp_path / NOT_UTF8).read_bytes() == b'{\n "name": "caf\\udce9"\n}\n'


def test_a_huge_cell_is_an_error_of_the_file(tmp_path):
    (tmp_path / "a.csv").write_text("name,group\n" + "x" * 200_000 + ",1\n")
    with pytest.raises(InputError, match=r"cannot read line 2 of .*a\.csv: field larger than"):
        list(read_table(tmp_path / "a.csv"))


def test_counts_have_the_noun_in_singular_or_plural():
    cases = [(1, "frame"), (0, "frame"), (2, "box"), (1, "process"), (2, "process")]
    assert [counted(*case) for case in cases] == ["1 frame", "0 frames", "2 boxes", "1 process", "2 processes"]
