"""The one reader of CSV files: all fields are text, and what can be read in two ways is refused with its line."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise

import pandas as pd

from rakuten_tasks.data.schema import WHOLE_NUMBER, CatalogueError
from rakuten_tasks.preprocessing.text import INVISIBLE

# columns of whole numbers, by which a row is recognised within a text that a stray quote has opened
NUMBERS = ("productid", "imageid", "prdtypecode")
SEPARATOR_LINE = re.compile(r'"?sep=', re.IGNORECASE)  # written for Excel alone
OTHER_SEPARATORS = ";\t|"
QUOTING = 'put texts that hold commas, quotes or line breaks in double quotes, and double the quotes inside ("")'
BLANK_ROW = "the row is blank: delete it, and others like it"
FILE_TYPES = {b"PK\3\4": "an Excel workbook or a ZIP archive", b"PAR1": "a Parquet file", b"\x1f\x8b": "a gzip archive"}
csv.field_size_limit(sys.maxsize)  # the default refuses texts of 128 KiB


def read_tables(file: Iterable[bytes], path: str, rows: int) -> Iterator[pd.DataFrame]:
    """Yield the file's rows as texts, at least one table, indexed by the number of each row's first line.

    file: lines of bytes. path: for messages. rows: of each table at most. Blank lines and a byte order mark are
    skipped; columns without a name, but the first, are left out. Raises CatalogueError with the line, what is wrong
    there, and how to fix it.
    """
    records = _read_records(file, path)
    line, header = next(records, (1, []))
    if not header:
        raise CatalogueError(f"{path}: the file is empty: its first line must name the columns")
    names = _check_header(header, path, line)
    columns = [i for i, name in enumerate(names) if name or i == 0]
    records = _check_rows(records, names, header, path)
    first = True
    while (chunk := list(islice(records, rows))) or first:
        lines = pd.Index([line for line, _ in chunk], dtype="int64", name="line")
        texts = list(zip(*(fields for _, fields in chunk), strict=True)) or [()] * len(names)
        yield pd.DataFrame({names[i]: texts[i] for i in columns}, index=lines, dtype=str)
        first = False


def _read_records(file: Iterable[bytes], path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each record that is no blank line, with the number of its first line."""
    records = csv.reader(_decode(file, path), strict=True)
    while True:
        line = records.line_num + 1
        try:
            fields = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            raise CatalogueError(_explain(error, path, line, records.line_num)) from error
        if fields:
            yield line, fields


def _decode(file: Iterable[bytes], path: str) -> Iterator[str]:
    """Yield lines as text; only a line feed ends a line, so that csv sees each bare carriage return."""
    for number, line in enumerate(file, start=1):
        if number == 1 and (kind := next((kind for start, kind in FILE_TYPES.items() if line.startswith(start)), "")):
            raise CatalogueError(f"{path}: {kind}: put its table there as CSV")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise CatalogueError(f"{path}, line {number}: not UTF-8 text ({error}): save the file as UTF-8") from error
        if "\0" in text:
            raise CatalogueError(
                f"{path}, line {number}: a NUL character after {text[: text.index(chr(0))][-20:]!r}: delete it, or "
                "save the file as UTF-8 if it is UTF-16"
            )
        yield text


def _explain(error: csv.Error, path: str, first: int, last: int) -> str:
    message = str(error)
    if "unexpected end" in message:
        return f"{path}, line {first}: not a readable CSV: a double quote of this row is never closed: {QUOTING}"
    if "new-line character" in message:
        return (
            f"{path}, line {last}: not a readable CSV: a carriage return without line feed, outside of quotes: end "
            "each row with a line feed, and put texts that hold carriage returns in double quotes"
        )
    row = f", in the row that begins on line {first}" if first < last else ""
    return f"{path}, line {last}: not a readable CSV: text follows a closing double quote{row}: {QUOTING}"


def _check_header(header: Sequence[str], path: str, line: int) -> list[str]:
    where = f"{path}, line {line}"
    if SEPARATOR_LINE.match(header[0]):
        raise CatalogueError(f"{where}: {','.join(header)!r} is a line for Excel: delete it, and separate by commas")
    if separators := [mark for mark in OTHER_SEPARATORS if "".join(header).count(mark) >= len(header)]:
        raise CatalogueError(f"{where}: columns are separated by {separators[0]!r}: save the file separated by commas")
    if any("\n" in name for name in header):
        raise CatalogueError(f"{where}: a double quote of the header line is not closed on it: {QUOTING}")
    names = [INVISIBLE.sub("", name).strip() for name in header]
    if doubled := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise CatalogueError(f"{where}: column {', '.join(doubled)} occurs more than once: keep one, or rename one")
    return names


def _check_rows(
    records: Iterator[tuple[int, list[str]]], names: Sequence[str], header: Sequence[str], path: str
) -> Iterator[tuple[int, list[str]]]:
    width, numbers = len(names), [i for i, name in enumerate(names) if name in NUMBERS]
    numbers += [0] if numbers and not names[0] else []  # the row numbers
    for line, fields in records:
        if len(fields) != width:
            raise CatalogueError(f"{path}, line {line}: {_explain_width(fields, names, numbers)}")
        if numbers and _is_blank(fields):
            raise CatalogueError(f"{path}, line {line}: {BLANK_ROW}")
        if width > 1 and fields[1:] == header[1:]:
            raise CatalogueError(f"{path}, line {line}: the header line occurs again: delete it")
        if numbers and "\n" in "".join(fields) and _spans_rows(fields, numbers):
            raise CatalogueError(
                f"{path}, line {line}: a double quote of this row is not closed before the next row begins: {QUOTING}"
            )
        yield line, fields


def _is_blank(fields: Sequence[str]) -> bool:
    return not INVISIBLE.sub("", "".join(fields)).strip()


def _explain_width(fields: Sequence[str], names: Sequence[str], numbers: Sequence[int]) -> str:
    width = len(names)
    if _is_blank(fields):
        return BLANK_ROW
    fault = f"{len(fields)} fields, from {fields[0][:20]!r} on, where the header line names {width}"
    if width == 1:
        return f"{fault}, {names[0][:60]!r}: delete what stands before the line that names the columns"
    if len(fields) < width:
        return f"{fault}: complete the row; {QUOTING}"
    if any(text.startswith(' "') for text in fields):
        return f"{fault}: delete the blank before the double quote, which is read as a part of the text"
    if _is_blank(fields[width:]) and (not numbers or _is_row(fields[:width], width, numbers)):
        return f"{fault}: delete the commas at the end of the row, or name their columns in the header line"
    return f"{fault}: {QUOTING}"


def _spans_rows(fields: Sequence[str], numbers: Sequence[int]) -> bool:
    """Return whether a quoted text, cut at a line break, gives the end of one row and all of another.

    A quote that is not closed takes in the rows below, up to the next quote. numbers: positions of whole numbers.
    """
    width = len(fields)
    sound = _is_row(fields, width, numbers)
    for i, text in enumerate(fields):
        if "\n" not in text:
            continue
        lines = text.split("\n")
        for j, (above, below) in enumerate(pairwise(lines), start=2):
            row_below = [*below.split(","), *(fields[i + 1 :] if j == len(lines) else [])]
            row_above = [*fields[:i], *above.split(",")[i - width :]]  # this text may hold commas of its own
            if _is_row(row_below, width, numbers) and (_is_row(row_above, width, numbers) or not sound):
                return True
    return False


def _is_row(fields: Sequence[str], width: int, numbers: Sequence[int]) -> bool:
    if len(fields) != width:
        return False
    # a product without a photo has a blank imageid, and where one quote is misplaced, others may be
    texts = list(filter(None, (fields[i].replace('"', "").strip() for i in numbers)))
    return bool(texts) and all(re.fullmatch(WHOLE_NUMBER, text) for text in texts)
