"""What step functions take and return, beside Arrow tables and LightGBM models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

Json = Any  # a report is checked when it is written, not while it is built
Report = dict[str, Json]
"""A JSON object. Numbers are finite; NaN and infinity are refused when the report is stored."""

Page = str
"""A self-contained HTML page."""


class Params(BaseModel):
    """Parameters of one step: every field has a range, an unknown name is an error, nothing is converted silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BadData(ValueError):
    """Data or parameters that the step cannot work with.

    Say what is wrong, where (table, column, row numbers), what was expected and what was found. Never quote a value of
    a column that can hold personal data.
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "", got: str = "") -> None:
        self.what, self.where, self.expected, self.got = what, where, expected, got
        super().__init__(": ".join(x for x in (where, what) if x))
