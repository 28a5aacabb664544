"""CSV tables: exact numbers, and text that a spreadsheet does not evaluate as a formula.

Excel, LibreOffice and Google Sheets evaluate what begins with =, +, -, @, a tab or a carriage return. Such text (a
reason, a node's name, a choice; never a number) is written behind an apostrophe, which reading removes again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escape(value: Any) -> Any:
    """Return a value as it is written: text that a spreadsheet would evaluate, behind an apostrophe."""
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def unescape(written: str) -> str:
    """Return what :func:`escape` was given."""
    return written[1:] if written.startswith("'") and _is_formula(written) else written


def _is_formula(value: str) -> bool:
    """Return whether a text begins like a formula, after any apostrophes."""
    return value.lstrip("'").startswith(_FORMULA)


def csv_line(cells: Iterable[Any]) -> str:
    """Return one line of a table; None becomes an empty cell."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow("" if value is None else escape(value) for value in cells)
    return out.getvalue()


def to_csv(table: pd.DataFrame, **options: Any) -> bytes:
    """Return a table without its index as CSV; ``options`` are those of pandas."""
    texts = {str(name): table[name].map(escape) for name in table if table[name].dtype.kind == "O"}
    written: str = table.assign(**texts).to_csv(index=False, **options)
    return written.encode()


def read_csv(source: Path | io.BytesIO, kinds: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return a table; only empty cells count as missing.

    pyarrow reads each number to the last bit. pandas' own parser does so from 3 on; in 2.2 more than half of the
    numbers were wrong in the last digit. ``kinds`` are "str", "int64", "Int64" or "float64" by column; other columns
    are guessed. Raises OSError or ValueError if the table cannot be read, or a cell is of another kind.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import csv as arrow

    kinds = kinds or {}
    types = {"str": pa.string(), "int64": pa.int64(), "Int64": pa.int64(), "float64": pa.float64()}
    content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    read: pa.Table = arrow.read_csv(
        io.BytesIO(content),
        parse_options=arrow.ParseOptions(newlines_in_values=True),
        convert_options=arrow.ConvertOptions(
            column_types={name: types[kind] for name, kind in kinds.items()},
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    columns = {}
    for name, values in zip(read.column_names, read.columns, strict=True):
        if pa.types.is_string(values.type):
            columns[name] = pd.Series([value and unescape(value) for value in values.to_pylist()], dtype="str")
        elif kinds.get(name) == "Int64":
            columns[name] = pd.Series(values.to_pylist(), dtype="Int64")
        elif values.null_count == len(values):
            columns[name] = pd.Series(float("nan"), range(len(values)))
        else:
            columns[name] = values.to_pandas()
    table = pd.DataFrame(columns)
    return table.astype({name: kind for name, kind in kinds.items() if kind == "int64"})
