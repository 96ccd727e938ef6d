"""structlog, imported without rich: a step's log is lines of JSON, and nobody reads its colours."""

from workflows.lean import without

with without("rich"):
    import structlog

__all__ = ["structlog"]
