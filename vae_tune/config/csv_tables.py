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

from vae_tune.config.names import MOMENT

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
    numbers were wrong in the last digit. ``kinds`` are "str", "int64", "Int64", "float64" or MOMENT by column; other
    columns are guessed. Raises OSError or ValueError if the table cannot be read, or a cell is of another kind.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import compute

    kinds = kinds or {}
    types = {"str": pa.string(), "int64": pa.int64(), "Int64": pa.int64(), "float64": pa.float64()}
    content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    try:
        read = _parse(content, kinds, types | {MOMENT: pa.timestamp("ms", tz="UTC")})
    except pa.ArrowInvalid:  # perhaps a moment in another form of ISO 8601, of which pandas knows more
        read = _parse(content, kinds, types | {MOMENT: pa.string()})
    columns = {}
    for name, values in zip(read.column_names, read.columns, strict=True):
        if kinds.get(name) == MOMENT:
            if pa.types.is_string(values.type):
                moments = pd.to_datetime(pd.Series(values.to_pylist(), dtype="str"), utc=True, format="ISO8601")
                columns[name] = moments.dt.as_unit("ms")
            else:
                columns[name] = values.to_pandas().dt.tz_convert("UTC")
        elif pa.types.is_string(values.type):
            is_escaped = compute.any(compute.starts_with(values, "'")).as_py()
            texts = [value and unescape(value) for value in values.to_pylist()] if is_escaped else values.to_pandas()
            columns[name] = pd.Series(texts, dtype="str")
        elif kinds.get(name) == "Int64":
            columns[name] = values.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        elif values.null_count == len(values):
            columns[name] = pd.Series(float("nan"), range(len(values)))
        else:
            columns[name] = values.to_pandas()
    table = pd.DataFrame(columns)
    lacking = {name: kind for name, kind in kinds.items() if kind == "int64" and table[name].dtype != kind}
    return table.astype(lacking) if lacking else table  # raises an error; with an empty dict it copies all


def _parse(content: bytes, kinds: Mapping[str, str], types: Mapping[str, Any]) -> Any:
    """Return a table of Arrow."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    return arrow.read_csv(
        pa.BufferReader(content),
        parse_options=arrow.ParseOptions(newlines_in_values=b'"' in content),
        convert_options=arrow.ConvertOptions(
            column_types={name: types[kind] for name, kind in kinds.items()},
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
