"""Text for people, tables, and pictures: counts, addresses, and names of files, which may hold almost any character."""

import re
from collections.abc import Sequence

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 frame", "2 frames", "2 boxes"."""
    plural = "es" if noun.endswith(("s", "x")) else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def list_names(names: Sequence[str], limit: int = 3) -> str:
    """The first `limit` names, and how many more there are: "a, b, c and 4 more"."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def printable(text: str) -> str:
    """`text` with terminals' control characters, and bytes that are no UTF-8, written as \\x1b or \\udcff."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def table_cell(value: object) -> object:
    """A value as a cell of a csv file: text without control characters, which no spreadsheet runs as a formula.

    Text that looks like a formula gets an apostrophe in front, by which spreadsheets recognise text.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) and not _is_number(text) else text


def original_cell(cell: str) -> str:
    """The text that `table_cell` made this cell of, escapes aside."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS) else cell


def folder_name(name: str) -> str:
    """`name` as the name of a file or folder: dots alone, which lead to another folder, become underscores."""
    return (name.replace(".", "_") or "_") if not name.strip(".") else name


def public_address(text: str) -> str:
    """A URL without user name, password and query, which may be secret, for messages and files; other text as it is."""
    scheme, separator, location = text.partition("://")
    return f"{scheme}://{location.rpartition('@')[2].partition('?')[0]}" if separator else text


def drawn(text: str) -> str:
    """`text` as OpenCV's fonts can draw it: ASCII, with a question mark for anything else."""
    return printable(text).encode("ascii", "replace").decode()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
