"""A source that is a query on PostgreSQL: `postgresql://host:port/database?query=SELECT ...`.

User and password come from PGUSER, PGPASSWORD or a password file, never from the declaration. The query must say ORDER
BY: without one, the same data could come in another order and count as other data.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from workflows.declare import Kind, Source
from workflows.errors import BadInput, Problem, Temporary
from workflows.run import codec


class Sql:
    """The adapter for queries on PostgreSQL."""

    def suffix(self, source: Source) -> str:
        del source
        return ".parquet"

    def take(self, source: Source, to: Path) -> None:
        import psycopg
        import pyarrow as pa

        conninfo, query = _parts(source)
        try:
            with psycopg.connect(conninfo, connect_timeout=10) as connection:
                connection.read_only = True
                cursor = connection.execute(query.encode())
                names = [c.name for c in cursor.description or ()]
                rows = cursor.fetchall()
        except psycopg.OperationalError as error:
            raise _unreachable(source, error) from error
        except psycopg.Error as error:
            raise BadInput(Problem(what=f"the query fails: {type(error).__name__}", where=_public(source))) from error
        columns = [[r[i] for r in rows] for i in range(len(names))]
        codec.dump(Kind.TABLE, pa.table({n: _plain(c) for n, c in zip(names, columns, strict=True)}), to)


def _plain(values: list[object]) -> list[object]:
    from decimal import Decimal

    # numeric comes as Decimal, which Arrow would give a precision that depends on the rows at hand.
    return [float(v) if isinstance(v, Decimal) else v for v in values]


def _parts(source: Source) -> tuple[str, str]:
    url = urlsplit(source.at)
    asked = parse_qs(url.query)
    query = asked.pop("query", [""])[0]
    if url.password:
        raise BadInput(Problem(what="a password in a source's address", where=_public(source)), hint="use PGPASSWORD or a password file")
    if not re.search(r"\border\s+by\b", query, re.IGNORECASE):
        raise BadInput(Problem(what="the query must say ORDER BY, or the same data could come in another order", where=_public(source)))
    return url._replace(query="").geturl(), query


def _unreachable(source: Source, error: Exception) -> BadInput | Temporary:
    text = str(error)
    refused = "authentication failed" in text or "does not exist" in text or "no password supplied" in text
    kind = BadInput if refused else Temporary
    what = "PostgreSQL refuses the connection: unknown database, user or password" if refused else "PostgreSQL does not answer"
    return kind(Problem(what=what, where=_public(source)))


def _public(source: Source) -> str:
    url = urlsplit(source.at)
    return f"{url.scheme}://{url.hostname or ''}{url.path}"
