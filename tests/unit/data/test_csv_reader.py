from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rakuten_tasks.data.csv_reader import read_tables
from rakuten_tasks.data.schema import CatalogueError

HEADER = ",designation,description,productid,imageid\n"


def read(text: str | bytes, rows: int = 2) -> list[list[str]]:
    content = text.encode() if isinstance(text, str) else text
    return pd.concat(read_tables(io.BytesIO(content), "X.csv", rows)).to_numpy().tolist()


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        ("1,NA,null,007,\n", [["1", "NA", "null", "007", ""]]),
        ("1,a,b,2,3\r\n2,c,d,4,5\r\n", [["1", "a", "b", "2", "3"], ["2", "c", "d", "4", "5"]]),
        ("1,a,b,2,3\r\r\n", [["1", "a", "b", "2", "3"]]),
        ("\n1,a,b,2,3\n\n\n", [["1", "a", "b", "2", "3"]]),
        ('1,"a ""b"", c",5" tube,2,3', [["1", 'a "b", c', '5" tube', "2", "3"]]),
        ('1,"a\n2,5 kg\r\n3,4,5",b\u2028c\x0b,2,3\n', [["1", "a\n2,5 kg\r\n3,4,5", "b\u2028c\x0b", "2", "3"]]),
        ('1,"a\rb",,2,3\n', [["1", "a\rb", "", "2", "3"]]),
        (f"1,{'x' * 200_000},,2,3\n", [["1", "x" * 200_000, "", "2", "3"]]),
        ("", []),
        (",,,,0\n", [["", "", "", "", "0"]]),
    ],
)
def test_each_field_is_the_text_that_stands_there(rows, fields):
    assert read(HEADER + rows) == fields
    assert read(b"\xef\xbb\xbf" + (HEADER + rows).encode()) == fields


def test_rows_carry_the_line_on_which_they_begin():
    text = HEADER + '1,"a\nb",,2,3\n\n2,c,,4,5\n3,d,,6,7\n'
    tables = list(read_tables(io.BytesIO(text.encode()), "X.csv", 2))
    assert [table.index.tolist() for table in tables] == [[2, 5], [6]]


def test_blanks_around_names_and_columns_without_a_name_do_no_harm():
    table = next(read_tables(io.BytesIO(" , \u200bdesignation\xa0,,\n1,a,,\n".encode()), "X.csv", 2))
    assert table.to_dict("records") == [{"": "1", "designation": "a"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"X\.csv: the file is empty"),
        ("\n\r\n", r"X\.csv: the file is empty"),
        ("sep=,\n" + HEADER, r"line 1: 'sep=,' is a line for Excel: delete it"),
        ("sep=;\n" + HEADER, r"line 1: 'sep=;' is a line for Excel"),
        ("a;b\n", r"line 1: columns are separated by ';': save"),
        ("a\tb\n", r"line 1: columns are separated by '\\t': save"),
        (',a,"b\n1,2,"\n3,4,5\n', r"line 1: a double quote of the header line is not closed on it"),
        (",a,b, a\n", r"line 1: column a occurs more than once: keep one"),
        (HEADER + "1,a,b,2,3\n\x002,c,d,4,5\n", r"line 3: a NUL character after '': delete"),
        (HEADER + "1,Lot\x00 de 12,b,2,3\n", r"line 2: a NUL character after '1,Lot': delete"),
        (HEADER.encode("utf-16-le"), r"line 1: a NUL character .* if it is UTF-16"),
        (HEADER + "1,a\rb,c,2,3\n", r"line 2: .* carriage return without line feed"),
        (HEADER.replace("\n", "\r") + "1,a,b,2,3\r", r"line 1: .* carriage return without line feed"),
        (HEADER + '1,"a" b,c,2,3\n', r"line 2: .* text follows a closing double quote: put"),
        (HEADER + '1,"a \\"b\\"",c,2,3\n', r"line 2: .* text follows a closing double quote"),
        (HEADER + '1,"a,b,2,3\n2,"c",d,4,5\n', r"line 3: .* follows a closing .* begins on line 2"),
        (HEADER + '1,a,b,2,3\n2,"a,b,2,3\n3,c,d,4,5\n', r"line 3: .* this row is never closed"),
        (HEADER + "1,a,b,2\n", r"line 2: 4 fields, from '1' on, where the header line names 5: complete the row"),
        (HEADER + "1,a,b,2,3,4\n", r"line 2: 6 fields, from '1' on, where .* names 5: put"),
        (HEADER + "1,l'eau,'a,b',2,\n", r"line 2: 6 fields, from '1' on, where .* names 5: put"),
        (HEADER + '1, "a, b",c,2,3\n', r"line 2: 6 fields.*: delete the blank before the double quote"),
        ("# export\n" + HEADER, r"line 2: .* names 1, '# export': delete what stands before the line that names"),
        (HEADER + "1,a,b,2,3\n<<<<<<< HEAD\n", r"line 3: 1 fields, from '<<<<<<< HEAD' on, where"),
        ("x;a, b;c;d\n", r"line 1: columns are separated by ';': save"),
        (b"PK\3\4\x14\0", r"X\.csv: an Excel workbook or a ZIP archive: put its table there as CSV"),
        (b"\x1f\x8b\x08\0", r"X\.csv: a gzip archive"),
        (b"PAR1\x15\4", r"X\.csv: a Parquet file"),
        (HEADER + "1,a,b,2,3,,\n", r"line 2: 7 fields.*: delete the commas at the end"),
        *(
            (HEADER + f"1,a,b,2,3\n{row}\n", r"line 3: the row is blank: delete it")
            for row in (",,", ",,,,\n,,,,", " ", '""', "\x1a", " ,\u200b,,,")
        ),
        (HEADER + "1,a,b,2,3\n\ufeff" + HEADER, r"line 3: the header line occurs again: delete it"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text, message):
    with pytest.raises(CatalogueError, match=message):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        HEADER + '1,"a,b,2,3\n2,c 5",d,4,5\n',
        HEADER + '1,"a,b,2,\n2,c,d,4,5\n3,e 5",f,6,7\n',
        HEADER + '1,a,"b,2,3\r\n2,c,d 5",4,5\r\n',
        HEADER + '1,"a, b","c,2,3\n2,d,e 5",4,5\n',
        HEADER + '1,a,"b, c,2,3\n2,d,",4,5\n',
        HEADER + '1,"a\nb","c,2,3\n2,d,e 5",4,5\n',
        ',prdtypecode\n1,"10\n2,20"\n',
        'prdtypecode,name\n10,"Livres\n20,Jouets"\n',
        ',productid,imageid,designation,description\n1,2,3,a,"b\n2,4,5,c,d"\n',
    ],
)
def test_a_quote_that_is_not_closed_never_takes_in_the_row_below(text):
    with pytest.raises(CatalogueError, match=r"line 2: a double quote of this row is not closed before the next row"):
        read(text)


TEXTS = st.text(st.sampled_from('ab0,;"\n\r é'), max_size=8)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(TEXTS, min_size=3, max_size=3), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_what_pythons_writer_writes_is_read_back(rows, line_end):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *rows])
    assert read(buffer.getvalue()) == rows
