"""Batches of rows as engines hand them out: texts of a column, and the batch with new columns, of the same kind.

a mapping of name -> list or array   Ray Data "numpy", datasets.map(batched=True)
pandas.DataFrame                     Dask, Ray Data "pandas", Spark's mapInPandas
pyarrow.Table, RecordBatch           Ray Data "pyarrow", Spark's mapInArrow, Parquet
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.errors import RequestError


@dataclass(frozen=True)
class Vectors:
    """Vectors of S rows.

    x      (S, D) float32 or float16; NaN where there is none
    valid  (S) whether there is one
    """

    x: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]


def library_of(batch: Any) -> str:
    """The library that a batch is of: "pandas", "pyarrow", or "" for a mapping. RequestError for any other."""
    library = type(batch).__module__.partition(".")[0]
    if library == "pandas" and type(batch).__name__ == "DataFrame":
        return library
    if library == "pyarrow" and type(batch).__name__ in ("Table", "RecordBatch"):
        return library
    if isinstance(batch, Mapping):
        return ""
    raise RequestError(
        f"a batch of type {type(batch).__module__}.{type(batch).__name__}",
        hint="a dictionary of lists or arrays, a pandas DataFrame, or an Arrow Table or RecordBatch",
    )


def names_of(batch: Any) -> list[Any]:
    """The names of all columns, one as often as it is there."""
    return list(batch.schema.names if library_of(batch) == "pyarrow" else batch.keys())


def texts_of(batch: Any, column: str) -> list[Any]:
    """The values of a column, as Python has them. RequestError where there is no such column, or more than one."""
    check_column(names_of(batch), column)
    values = batch[column]
    return list(values.to_pylist() if library_of(batch) == "pyarrow" else values)


def check_column(names: Sequence[Any], column: str, where: str = "", option: str = "") -> None:
    """RequestError where a column of texts is not among the names, or twice.

    where   names the file, for the error
    option  how the column is given there, for the hint
    """
    if column not in names:
        hint = f"{option}the columns are {', '.join(map(str, names))}"
        raise RequestError(f"{where}there is no column {column!r}", hint=hint)
    if (n := list(names).count(column)) > 1:
        raise RequestError(f"{where}there are {n} columns {column!r}", hint="rename all but the one of the texts")


def check_new(names: Iterable[Any], added: Sequence[str], where: str = "") -> None:
    """RequestError where a column that is to be added is there already: what it holds would be lost."""
    there = set(names)
    for name in added:
        if name in there:
            hint = f"another name for the vectors, into=NAME (--into NAME), or rows without {name!r}"
            raise RequestError(f"{where}there is a column {name!r} already", hint=hint)


def with_columns(batch: Any, columns: Mapping[str, Vectors | Sequence[str | None]]) -> Any:
    """The batch with columns that it does not have yet behind its own; what was given stays as it is."""
    library = library_of(batch)
    if library == "pyarrow":
        return with_arrow(batch, columns)
    if library == "pandas":
        return batch.assign(**{name: pandas_column(values, batch.index) for name, values in columns.items()})
    plain = {name: c.x if isinstance(c, Vectors) else np.array(c, object) for name, c in columns.items()}
    return {**batch, **plain}


def pandas_column(values: Vectors | Sequence[str | None], index: Any) -> Any:
    """A Series of arrays (D), or of strings; None where there is none."""
    pd = importlib.import_module("pandas")
    if isinstance(values, Vectors):
        values = [x if valid else None for x, valid in zip(values.x, values.valid, strict=True)]
    return pd.Series(list(values), index=index, dtype=object)


def with_arrow(batch: Any, columns: Mapping[str, Vectors | Sequence[str | None]]) -> Any:
    """With a fixed_size_list<float>[D] for vectors, null where there is none."""
    pa = importlib.import_module("pyarrow")
    fields, arrays = list(batch.schema), list(batch.columns)
    for name, values in columns.items():
        if isinstance(values, Vectors):
            mask = None if values.valid.all() else pa.array(~values.valid)
            numbers = pa.array(np.ascontiguousarray(values.x).ravel())
            array = pa.FixedSizeListArray.from_arrays(numbers, values.x.shape[1], mask=mask)
        else:
            array = pa.array(list(values), pa.string())
        fields.append(pa.field(name, array.type))
        arrays.append(array)
    return type(batch).from_arrays(arrays, schema=pa.schema(fields, metadata=batch.schema.metadata))
