"""Names of workflows: each says what the workflow would do, so the same submission twice has the same name and is refused.

| submission | name |
|---|---|
| a commit as it is | `<pipeline>-<first 12 digits of the commit>` |
| anything else | `<pipeline>-<first 12 digits of the sha256 of its description>` |

The description is `pre_image`: a line of canonical JSON, so that an event's sensor, which knows only the commit, can put it
together and hash it, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from workflows.prove import canonical, digest

LONGEST = 63 - len("-4294967295")
"""Kubernetes allows 63 characters in a label or a host's name; Argo appends up to eleven for a pod or a scheduled start."""
DIGITS = 12
STEM = LONGEST - 1 - DIGITS
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def argo_name(name: str) -> str:
    """A pipeline's or step's name in Kubernetes, which allows no underscore."""
    return name.replace("_", "-")


def workflow_name(  # noqa: PLR0913  # all but the first by keyword
    pipeline: str, *, commit: str | None, code: str = "", overrides: Mapping[str, Any] | None = None, scheduled: str = "", again: int = 0
) -> str:
    """The name of the workflow that runs `pipeline` at `commit`, or with the code of sha256 `code` where no commit has it.

    `overrides` is `step.parameter` -> value, `scheduled` an RFC 3339 time, `again` how often the same was asked for anew.
    """
    stem = argo_name(pipeline)
    if commit and not overrides and not scheduled and not again and len(stem) <= STEM:
        return f"{stem}-{commit[:DIGITS]}"
    text = pre_image(pipeline, commit=commit, code=code, overrides=overrides, scheduled=scheduled, again=again)
    # A stem that was cut says less than the pipeline's name, which the digest covers.
    return f"{stem[:STEM].rstrip('-')}-{digest.of_bytes(text.encode()).sha256[:DIGITS]}"


def pre_image(  # noqa: PLR0913  # likewise
    pipeline: str, *, commit: str | None, code: str = "", overrides: Mapping[str, Any] | None = None, scheduled: str = "", again: int = 0
) -> str:
    """What is hashed into a name. The commit stands in it once, as `git:<commit>`."""
    if not commit and not code:
        raise ValueError("a workflow's name needs the commit or the digest of its code")
    described = {
        "tag": "countersign:v1:workflow",
        "pipeline": pipeline,
        "code": f"git:{commit}" if commit else f"sha256:{code}",
        "overrides": dict(overrides or {}),
        "scheduled": scheduled,
        "again": again,
    }
    return canonical.encode(described).decode()
