"""Tables of labels: a file of names and labels, in any order, or of labels alone.

    image,label          a CSV or TSV file, compressed or not, with a header or without, or Parquet: by the one column
    1.png,cat            whose values fit the names of the rows: paths, names of files with or without their endings, or
                         numbers of rows
    MEL,NV,BCC           a column for each class, with one 1 in each row
    cat                  one label a line: by place, if there are as many

A table is matched by place only if nothing in it can be a name. Names are matched in pyarrow's columns: ten million
rows of 29 bytes in any order took 36 s and 1.8 GB, as Python strings their names alone would take that.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from imagesets.errors import DataError
from imagesets.labels import UNKNOWN, LabelColumn, column_of, merged
from imagesets.lazy_strings import LazyStrings
from imagesets.names.file_names import part_of_folder, read_name, without_compression
from imagesets.source import PARTS, Part

LABEL_HEADINGS = (
    "label",
    "labels",
    "class",
    "classes",
    "target",
    "category",
    "diagnosis",
    "dx",
    "digit",
    "class_name",
    "class_id",
    "classname",
    "label_name",
    "y",
)
"""Usual names of the column of labels, in any case."""
NAME_HEADINGS = ("row", "file", "image", "path", "id", "filename", "file_name", "image_id", "id_code", "name")
"""Usual names of the column of names, which tell a header; what the column is, its values say."""
SPLIT_HEADINGS = ("split", "set", "subset", "usage", "phase", "partition")
MOST_SHOWN = 5
SAMPLE = 100
"""Names that are looked for in a column before all are."""

Names = Sequence[str] | LazyStrings
"""The names of rows."""
Positions = npt.NDArray[np.int64]


class Match(NamedTuple):
    """What a table says of the rows of images."""

    labels: LabelColumn
    parts: npt.NDArray[np.int64] | None
    """Index in `PARTS` for each row, `UNKNOWN` for none; None if the table has no column of parts."""


class _Fit(NamedTuple):
    column: str
    form: int
    """Index in `_FORMS`: the lower, the more exact."""
    hits: int
    positions: Positions
    """Row of the table for each name, `UNKNOWN` for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """A table of labels."""

    where: str
    columns: Mapping[str, Any]
    """Names of columns to `pyarrow.LargeStringArray` or one of integers; nulls have no value."""
    headed: bool
    """Whether the columns' names are the file's; else they are counted from 1."""
    choosable: bool = True
    """Whether an option names the column of the labels, for messages."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values())))

    def match(
        self,
        row_names: Names,
        where: str,
        *,
        label_column: str | None = None,
        partial: bool = False,
    ) -> LabelColumn:
        """Return the label of each row; see `match_rows`."""
        return self.match_rows(row_names, where, label_column=label_column, partial=partial).labels

    def match_rows(
        self,
        row_names: Names,
        where: str,
        *,
        label_column: str | None = None,
        partial: bool = False,
        by_place: bool = True,
    ) -> Match:
        """Return the label, and the part if the table has one, of each row.

        Args:
            row_names: paths, names of members, or numbers counted from 0; in the order of the images.
            where: the images, for messages.
            label_column: the column of the labels; None finds it.
            partial: whether rows may be without a label.
            by_place: whether a table without names may be taken in the order of the images.

        Raises:
            DataError: the names of some rows are missing or ambiguous, two columns fit them, or the column of the
                labels cannot be told; or the numbers differ if the table is by place.
        """
        positions, by = self._positions(row_names, where, label_column, partial)
        if by is None and not by_place:
            raise DataError(
                f"{self.where} has no column with the names of {where}: give one, such as file,label"
            )
        split = self._one_of(SPLIT_HEADINGS, "parts", {by, label_column})
        labels = self._labels({by, split}, label_column)
        known = positions != UNKNOWN
        codes = np.where(known, labels.codes[positions], UNKNOWN)
        if not partial and (codes == UNKNOWN).any():
            row = int(np.flatnonzero(codes == UNKNOWN)[0])
            raise DataError(
                f"{self.where} has no label for {row_names[row]} of {where}: give one for each image"
            )
        found = LabelColumn(codes=codes, values=labels.values, numeric=labels.numeric)
        return Match(
            found, None if split is None else np.where(known, self._parts(split)[positions], UNKNOWN)
        )

    def _positions(
        self, row_names: Names, where: str, label_column: str | None, partial: bool
    ) -> tuple[Positions, str | None]:
        """Return the table's row for each name, and the column that was matched, None for by place."""
        if not len(row_names):
            raise DataError(f"{where} has no images for the labels of {self.where}")
        names = _strings(row_names)
        labels = {label_column, *(name for name in self.columns if name.strip().lower() in LABEL_HEADINGS)}
        others = [name for name in self.columns if name not in labels] if len(self.columns) > 1 else []
        forms = _Forms(names)
        for whole in (True, False):
            fits = [fit for name in others if (fit := forms.fit(name, self.columns[name], whole=whole))]
            if whole and fits:
                break
        if not fits and forms.twice:
            raise DataError(f"{self.where} has {forms.twice} more than once: give one label for each image")
        if not fits:
            return self._by_place(others, row_names, where)
        most = max(fit.hits for fit in fits)
        form = min(fit.form for fit in fits if fit.hits == most)
        best = [fit for fit in fits if (fit.hits, fit.form) == (most, form)]
        if most < len(names) and (order := self._counted_from_one(best[0], row_names)) is not None:
            return order, best[0].column
        if most < len(names) and not (partial and not forms.shifted(best[0], len(self))):
            missing = np.flatnonzero(best[0].positions == UNKNOWN)
            shown = ", ".join(row_names[int(row)] for row in missing[:MOST_SHOWN])
            raise DataError(
                f"{self.where} has {most:,} of the {len(names):,} names of {where} in its "
                f"{self._called(best[0].column)}; missing are {shown}"
                f"{', ...' if len(missing) > MOST_SHOWN else ''}: give a label for each image"
            )
        self._check_one(best, where)
        return best[0].positions, best[0].column

    def _called(self, column: str) -> str:
        return f"column {column}" + ("" if self.headed else f" of {len(self.columns)}")

    def _counted_from_one(self, fit: _Fit, row_names: Names) -> Positions | None:
        """Return the places if rows are numbers from 0 and the column has as many from 1; else None."""
        if row_names[0] != "0" or len(self) != len(row_names):
            return None
        return _row_numbers(self.columns[fit.column])

    def _check_one(self, fits: Sequence[_Fit], where: str) -> None:
        """Check that columns which fit say the same."""
        other = next((fit for fit in fits if not np.array_equal(fit.positions, fits[0].positions)), None)
        if other is not None:
            raise DataError(
                f"{self.where}: the columns {fits[0].column} and {other.column} both fit the names of {where} and "
                "differ: remove one of them"
            )

    def _by_place(self, others: Sequence[str], row_names: Names, where: str) -> tuple[Positions, str | None]:
        """Return the rows in order, or by a column of their numbers, if no other column can be one of names."""
        import pyarrow.compute as pc

        rows = len(row_names)
        numbered = [
            (name, order) for name in others if (order := _row_numbers(self.columns[name])) is not None
        ]
        if numbered:
            self._check_count(rows, where)
            name, order = numbered[0]
            return order, name
        named = [name for name in others if pc.count_distinct(self.columns[name]).as_py() == len(self)]
        if named:
            raise DataError(
                f"no column of {self.where} has the names of {where} (such as {row_names[0]!r}): "
                f"{self._called(named[0])} has {self.columns[named[0]][0].as_py()!r}; give one with the paths or names "
                "of the images, or one label a line"
            )
        self._check_count(rows, where)
        return np.arange(rows), None

    def _check_count(self, rows: int, where: str) -> None:
        if len(self) != rows:
            raise DataError(
                f"{self.where} has {len(self):,} labels and {where} {rows:,} rows: give one for each row in order, or "
                "a CSV file with the header row,label"
            )

    def _one_of(self, headings: Sequence[str], what: str, without: Collection[str | None]) -> str | None:
        """Return the column with a usual name, None if there is none."""
        found = [name for name in self.columns if name.strip().lower() in headings and name not in without]
        if len(found) > 1:
            raise DataError(
                f"{self.where} has several columns of {what}: {', '.join(found)}; name one with --label-column"
                if headings is LABEL_HEADINGS and self.choosable
                else f"{self.where} has several columns of {what}: {', '.join(found)}; remove all but one"
            )
        return found[0] if found and self.headed else None

    def _labels(self, without: Collection[str | None], label_column: str | None) -> LabelColumn:
        """Return the label of each row of the table."""
        if label_column is not None:
            if label_column not in self.columns:
                raise DataError(
                    f"{self.where} has no column {label_column!r}: it has {', '.join(self.columns)}"
                )
            return self._coded(label_column)
        if (usual := self._one_of(LABEL_HEADINGS, "labels", without)) is not None:
            return self._coded(usual)
        left = [name for name in self.columns if name not in without]
        if len(left) == 1:
            return self._coded(left[0])
        if len(left) > 1 and (one_hot := self._one_hot(left)) is not None:
            return one_hot
        raise DataError(
            f"{self.where} has no column of labels"
            if not left
            else f"{self.where} has the columns {', '.join(self.columns)}, and none is called "
            f"{', '.join(LABEL_HEADINGS[:5])}: "
            f"{'name that of the labels with --label-column, or ' if self.choosable else ''}rename one to label"
        )

    def _coded(self, name: str) -> LabelColumn:
        """Return a column as labels; each distinct value is looked at once."""
        encoded = self.columns[name].dictionary_encode()
        where = f"{self.where}, column {name}" if self.headed and len(self.columns) > 1 else self.where
        distinct = column_of(encoded.dictionary.to_pylist(), where)
        codes = np.append(distinct.codes, UNKNOWN)
        places = encoded.indices.fill_null(UNKNOWN).to_numpy(zero_copy_only=False)
        return LabelColumn(codes=codes[places], values=distinct.values, numeric=distinct.numeric)

    def _one_hot(self, names: Sequence[str]) -> LabelColumn | None:
        """Return the labels of a column for each class, None if they are not that."""
        import pyarrow as pa

        try:
            table = np.stack(
                [self.columns[name].cast(pa.float32()).to_numpy(zero_copy_only=False) for name in names], 1
            )
        except pa.ArrowException:
            return None
        if not (((table == 0) | (table == 1)).all() and (table.sum(axis=1) == 1).all()):
            return None
        return LabelColumn(codes=table.argmax(axis=1).astype(np.int64), values=tuple(names), numeric=False)

    def _parts(self, name: str) -> npt.NDArray[np.int64]:
        """Return the index in `PARTS` of each row of a column of parts.

        Raises:
            DataError: a value is none.
        """
        encoded = self.columns[name].dictionary_encode()
        places = []
        for value in encoded.dictionary.to_pylist():
            if (part := part_of_folder(str(value).strip())) is None and str(value).strip():
                raise DataError(
                    f"{self.where}, column {name}: {value!r} is no part of a set; write train, val or test"
                )
            places.append(UNKNOWN if part is None else PARTS.index(part))
        codes: npt.NDArray[np.int64] = np.array([*places, UNKNOWN], dtype=np.int64)[
            encoded.indices.fill_null(UNKNOWN).to_numpy(zero_copy_only=False)
        ]
        return codes


def _row_numbers(values: Any) -> Positions | None:
    """Return the places of the rows 0 to n - 1 (or 1 to n) in a column of their numbers; None if it is no such."""
    import pyarrow as pa

    try:
        numbers = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        return None
    if not len(numbers) or numbers.dtype.kind != "i":  # nulls make it floats
        return None
    first = int(numbers.min())
    order = np.argsort(numbers, kind="stable")
    if first not in (0, 1) or not np.array_equal(numbers[order], np.arange(first, first + len(numbers))):
        return None
    return order.astype(np.int64)


def _strings(values: Names) -> Any:
    """Return names as a `pyarrow.LargeStringArray`."""
    import pyarrow as pa

    try:
        return pa.array(values, pa.large_string())
    except UnicodeEncodeError:  # names of files that are not UTF-8
        return pa.array(
            [value.encode("utf-8", "backslashreplace").decode() for value in values], pa.large_string()
        )


_EVERY = r"^.*/"
"""The folders of a path."""
_LAST_ENDING = r"\.[^./]*$"
_ENDINGS = r"^((?:.*/)?[^/.]+)\.[^/]*$"
"""All endings of a path, as WebDataset takes them off: the first dot of the name on."""


def _replaced(pattern: str, by: str) -> Callable[[Any], Any]:
    def replace(names: Any) -> Any:
        import pyarrow.compute as pc

        return pc.replace_substring_regex(names, pattern, by)

    return replace


def _same(names: Any) -> Any:
    return names


_base = _replaced(_EVERY, "")
_stem = _replaced(_LAST_ENDING, "")
_key = _replaced(_ENDINGS, r"\1")


def _of_base(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda names: change(_base(names))


_FORMS: tuple[tuple[Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    (_same, _same),
    (_stem, _same),
    (_key, _same),
    (_base, _same),
    (_base, _base),
    (_of_base(_stem), _same),
    (_of_base(_key), _same),
    (_of_base(_stem), _of_base(_stem)),
)
"""What is made of the names of the rows and of a column, the most exact first."""


class _Forms:
    """The names of rows in each form, and whether a column fits one of them."""

    def __init__(self, names: Any) -> None:
        import pyarrow.compute as pc

        self._names = names
        self._distinct = pc.count_distinct(names).as_py()
        self.twice = ""
        """A name that a column of names has more than once, and the column."""

    def fit(self, column: str, values: Any, *, whole: bool) -> _Fit | None:
        """Return the first form in which every name is in a column once; None if there is none.

        A form that makes one name of two is none. If not `whole`, return that in which most names are.
        """
        import pyarrow.compute as pc

        best: _Fit | None = None
        for form, (of_rows, of_table) in enumerate(_FORMS):
            table = of_table(values)
            if whole and not pc.all(pc.is_in(of_rows(self._names[:SAMPLE]), table)).as_py():
                continue
            rows = of_rows(self._names)
            if form and pc.count_distinct(rows).as_py() != self._distinct:
                continue
            found = pc.index_in(rows, table)
            hits = len(found) - found.null_count
            if hits <= (best.hits if best else len(rows) - 1 if whole else 0):
                continue
            if (name := _twice(rows, table)) is not None:
                if hits == len(rows) or column.strip().lower() in NAME_HEADINGS:
                    self.twice = self.twice or f"{name!r} in column {column}"
                continue
            positions = found.fill_null(UNKNOWN).to_numpy(zero_copy_only=False).astype(np.int64)
            best = _Fit(column, form, hits, positions)
            if hits == len(rows):
                break
        return best

    def shifted(self, fit: _Fit, count: int) -> bool:
        """Return whether the rows are numbers, and the table has numbers of other rows: it may count differently."""
        found = np.unique(fit.positions[fit.positions != UNKNOWN])
        return len(found) < count and str(self._names[0]).isdigit()


def _twice(rows: Any, table: Any) -> str | None:
    """Return a name of a row that is in the table more than once, None if there is none."""
    import pyarrow.compute as pc

    wanted = table.filter(pc.is_in(table, rows))
    if pc.count_distinct(wanted).as_py() == len(wanted):
        return None
    counts = pc.value_counts(wanted)
    most = pc.index(counts.field("counts"), pc.max(counts.field("counts"))).as_py()
    return str(counts.field("values")[most].as_py())


def match_found(
    tables: Sequence[LabelTable], row_names: Names, where: str, *, label_column: str | None = None
) -> tuple[LabelColumn, npt.NDArray[np.int64]]:
    """Return the labels and parts (indices in `PARTS`) that tables which were found beside images give them, by name.

    A table is for all images, or for those of some folders (`train.csv` for `train_images/`). Images of a folder that
    no table names have no label. Where no column says the parts, names of folders and tables do.

    Raises:
        DataError: no table fits, or two fit and differ.
    """
    every = [*range(len(row_names))]
    folders: dict[str, list[int]] = {}
    for row, name in enumerate(row_names):
        folders.setdefault(name.rpartition("/")[0], []).append(row)
    errors: list[DataError] = []
    for groups in ({"": every}, folders):
        found: dict[str, tuple[LabelTable, Match]] = {
            folder: match
            for folder, rows in groups.items()
            if (
                match := _match_one(
                    tables, folder, [row_names[row] for row in rows], where, label_column, errors
                )
            )
        }
        if found:
            _check_apart(found, groups, row_names)
            labels = merged([match.labels for _, match in found.values()])
            rows = [row for folder in found for row in groups[folder]]
            codes = np.full(len(row_names), UNKNOWN, dtype=np.int64)
            codes[rows] = labels.codes
            parts = np.full(len(row_names), UNKNOWN, dtype=np.int64)
            parts[rows] = np.concatenate([match.parts for _, match in found.values()])
            return LabelColumn(codes=codes, values=labels.values, numeric=labels.numeric), parts
    raise errors[0] if errors else DataError(f"no table is of the part of the images of {where}")


def no_table_error(name: str, label_column: str) -> DataError:
    """Return the error for a column of labels where no table is; labels from elsewhere are not what was asked for."""
    return DataError(
        f"{name} has no column {label_column!r} of labels, because it has no table: omit the column's name to take the "
        "labels that there are"
    )


def agreeing(labels: LabelColumn, folders: Sequence[str | None], table: str) -> None:
    """Check that a table beside class folders has one label for each of them, and another one for each.

    Raises:
        DataError: they say different things.
    """
    pairs = set(zip(folders, labels.codes.tolist(), strict=True))
    if None in folders or not len(pairs) == len({*folders}) == len({code for _, code in pairs}):
        raise DataError(
            f"{table} has labels of the images, and they are in folders that say something else: name the column to "
            "take with --label-column, or move the file away"
        )


def _match_one(
    tables: Sequence[LabelTable],
    folder: str,
    row_names: Names,
    where: str,
    label_column: str | None,
    errors: list[DataError],
) -> tuple[LabelTable, Match] | None:
    """Return what the one table that fits says of a folder's images, None if none fits; add why to `errors`."""
    found: list[tuple[LabelTable, Match]] = []
    part = _part_of_path(folder)
    for table in tables:
        of_table = _part_of_path(Path(without_compression(table.where)).stem)
        if part and of_table and part != of_table:
            continue
        try:
            match = table.match_rows(row_names, where, label_column=label_column, by_place=False)
        except DataError as error:
            errors.append(error)
            continue
        if (
            len(match.labels.values) == 1 and len(row_names) > 1
        ):  # what is to be handed in, with zeros for labels
            errors.append(
                DataError(f"{table.where} has the same label for all images: {match.labels.values[0]}")
            )
            continue
        if match.parts is None:
            match = Match(match.labels, _parts_of_paths(row_names, of_table))
        found.append((table, match))
    if any(_differ(match.labels, found[0][1].labels) for _, match in found[1:]):
        raise DataError(
            f"{found[0][0].where} and {found[1][0].where} both have labels of the images of {where}, and differ: leave "
            "one of them"
        )
    return found[0] if found else None


def _check_apart(
    found: Mapping[str, tuple[LabelTable, Match]], groups: Mapping[str, Sequence[int]], row_names: Names
) -> None:
    """Check that no table was matched with files of one name in two folders, which it cannot tell apart."""
    for table in {id(table): table for table, _ in found.values()}.values():
        seen: dict[str, str] = {}
        for folder in (folder for folder, (used, _) in found.items() if used is table):
            for row in groups[folder]:
                stem = row_names[row].rpartition("/")[2].partition(".")[0]
                if seen.setdefault(stem, folder) != folder:
                    raise DataError(
                        f"{table.where} has one label for {seen[stem]}/{stem} and {folder}/{stem}: give the images' "
                        "paths in it"
                    )


def _parts_of_paths(paths: Names, other: Part | None) -> npt.NDArray[np.int64]:
    """Return the index in `PARTS` of each path by the names of its folders, of `other` where they say nothing."""
    folders = [path.rpartition("/")[0] for path in paths]
    found = {folder: _part_of_path(folder) or other for folder in {*folders}}
    codes = {folder: UNKNOWN if part is None else PARTS.index(part) for folder, part in found.items()}
    return np.array([codes[folder] for folder in folders], dtype=np.int64)


def _part_of_path(path: str) -> Part | None:
    """Return the part that the name of a folder or file says, the innermost first."""
    return next((part for name in reversed(path.split("/")) if (part := read_name(name).part)), None)


def _differ(one: LabelColumn, other: LabelColumn) -> bool:
    return one.values != other.values or not np.array_equal(one.codes, other.codes)
