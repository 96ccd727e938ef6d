"""What a step does: pure functions, one module a concern. No step opens a path, reads a clock or knows a cluster."""
