"""Reading a table that does not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

BATCH = 65_536  # rows


def batches(dataset: ds.Dataset, *, rows: int = BATCH, **how: Any) -> Iterator[pa.RecordBatch]:
    """The rows of a dataset in their order, at most `rows` at a time; `how` may say `columns` and `filter`, as Arrow has them.

    About one row group is in memory at a time. Arrow's own `to_batches` reads on while its reader works, without a bound:
    a step that is slower than the disk would end up with the whole table.
    """
    yield from dataset.to_batches(batch_size=rows, batch_readahead=1, fragment_readahead=1, use_threads=False, **how)
