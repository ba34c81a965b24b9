"""How a data set on disk is read: the keys of `config.data` that a layout depends on."""

from collections.abc import Mapping
import dataclasses
from typing import Any

COLUMNS = ("file", "labels", "fold", "group")
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the layouts that name no recordings or folds, or that have a table.

    Attributes:
        folds: number of folds that are assigned to data without folds.
        group_pattern: "auto", or a regular expression that finds the recording in the name of a file; see `grouping`.
        columns: names of the columns of a table by their role, one of COLUMNS; empty: by the usual names.
        label_separator: between several labels in one cell; "auto", or empty if a cell is one label.
    """

    folds: int = 5
    group_pattern: str = AUTO
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_separator: str = AUTO

    @classmethod
    def read(cls, data: Mapping[str, Any] | Any) -> "Options":
        """From `config.data`, or from the `data` of a stored config."""
        values = {field.name: data.get(field.name) for field in dataclasses.fields(cls)}
        values["columns"] = {role: dict(values["columns"] or {}).get(role, "") for role in COLUMNS}
        return cls(**{name: value for name, value in values.items() if value is not None})
