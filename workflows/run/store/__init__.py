"""Where content, records and runs are kept: one port, a file an adapter."""
