"""Runs on a cluster: what a workflow does beside its steps, and how one is submitted and found again."""
