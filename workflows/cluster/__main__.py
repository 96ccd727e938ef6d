"""`python -m workflows.cluster plan|seal PIPELINE`: what a workflow does before its first step and after its last."""

from __future__ import annotations

import argparse
import os
import sys

from workflows.cluster.planning import plan
from workflows.cluster.sealing import seal
from workflows.run.interrupt import heard_once
from workflows.run.session import checkout, find_pipeline
from workflows.run.single import log_to, say
from workflows.run.store.open import STORE, open_store


def main(words: list[str] | None = None) -> int:
    """Plan or seal; the exit code is the contract with Argo."""
    parser = argparse.ArgumentParser(prog="python -m workflows.cluster", description="The first task and the exit handler of a workflow.")
    parser.add_argument("what", choices=["plan", "seal"])
    parser.add_argument("pipeline")
    asked = parser.parse_args(words)
    log_to(sys.stderr.fileno())
    with heard_once():
        try:
            print(_done(asked.what, asked.pipeline))
        except (Exception, KeyboardInterrupt) as error:
            return say(error, f"{asked.pipeline}: {asked.what}")
    return 0


def _done(what: str, name: str) -> str:
    root, pipeline = checkout(), find_pipeline(name)
    store = open_store(root, os.environ.get(STORE))
    if what == "plan":
        return f"run {plan(root, pipeline, store)}"
    done = seal(root, pipeline, store)
    return f"{done.run} {done.seal.outcome}, root {done.root}" if done else "no run was planned: there is nothing to seal"


if __name__ == "__main__":
    sys.exit(main())
