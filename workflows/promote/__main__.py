"""`python -m workflows.promote check|release|back`: the tasks of the workflows `promote` and `rollback`.

It is told a run, or a pipeline, and a reason. Everything else it takes from where only administrators write (`COUNTERSIGN_POLICY`,
`COUNTERSIGN_VALUES`, `COUNTERSIGN_ENVIRONMENT`), and it verifies all of it each time: that it was started, resumed or started
again proves nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime
from pathlib import Path

from workflows.errors import BadInput, GateRefused, Problem
from workflows.promote import approving, policy, promoting
from workflows.promote.desk import Target, at_desk
from workflows.promote.promoting import Desk
from workflows.run import journal
from workflows.run.interrupt import heard_once
from workflows.run.pod import OUTPUTS, put_out, wanted
from workflows.run.session import checkout
from workflows.run.single import log_to, say
from workflows.run.store.open import STORE, open_store

POLICY, VALUES, ENVIRONMENT = "COUNTERSIGN_POLICY", "COUNTERSIGN_VALUES", "COUNTERSIGN_ENVIRONMENT"
RUN, CHALLENGER, SHARE, REASON = "COUNTERSIGN_RUN", "COUNTERSIGN_CHALLENGER", "COUNTERSIGN_SHARE", "COUNTERSIGN_REASON"
PIPELINE = "COUNTERSIGN_PIPELINE"
ASKED_AT = "COUNTERSIGN_ASKED_AT"
GO, WAIT = "go", "wait"


def main(words: list[str] | None = None) -> int:
    """Check or release; the exit code is the contract with Argo."""
    parser = argparse.ArgumentParser(prog="python -m workflows.promote", description="The tasks of the workflows promote and rollback.")
    parser.add_argument("what", choices=sorted(TASKS))
    asked = parser.parse_args(words)
    log_to(sys.stderr.fileno())
    with heard_once():
        try:
            print(TASKS[asked.what]())
        except (Exception, KeyboardInterrupt) as error:
            return say(error, f"promote: {asked.what}")
    return 0


def _check() -> str:
    """Whether it may come now, or waits for somebody; anything else ends the workflow here, with every reason."""
    desk, asked = _desk(), _asked()
    looked = {a.run: promoting.look(desk, a.run) for a in asked}
    lacking = [run for run, x in looked.items() if not x.judgement.allowed]
    if any(not looked[run].judgement.waiting for run in lacking):
        promoting.refuse(desk.environment, looked)
    state = WAIT if lacking else GO
    commands = [f"countersign approve {run} --env {desk.environment}" for run in lacking]
    missing = "; ".join(r for run in lacking for r in looked[run].judgement.reasons)
    put_out(Path(wanted(OUTPUTS)), {"state": state, "command": " && ".join(commands), "missing": missing})
    return f"{', '.join(looked)}: {state}{f' ({missing})' if missing else ''}"


def _release() -> str:
    desk = _desk()
    try:
        done = promoting.promote(desk, _asked(), reason=os.environ.get(REASON, ""))
    except GateRefused as error:
        # Somebody resumed it without what it waited for.
        raise GateRefused(*error.problems, hint=f"{error.hint}; then submit it again") from None
    return _told(done)


def _back() -> str:
    desk = _desk()
    pipeline = os.environ.get(PIPELINE) or promoting.only_pipeline(desk)
    return _told(promoting.rollback(desk, pipeline, reason=os.environ.get(REASON, ""), asked_at=_asked_at()))


def _told(done: promoting.Promoted) -> str:
    entry = done.entry
    put_out(Path(wanted(OUTPUTS)), {"release": entry.sha256, "sequence": str(entry.sequence)})
    word = "nothing to do" if done.unchanged else "done"
    return f"{entry.begun.environment} {entry.sequence}: {word}, release {entry.sha256}"


def _desk() -> Desk:
    path = Path(wanted(POLICY))
    store = open_store(checkout(), os.environ.get(STORE))
    return at_desk(store, wanted(ENVIRONMENT), policy.read(path, str(path)), Target(values=Path(wanted(VALUES))), inside=True)


def _asked() -> list[promoting.Asked]:
    store = open_store(checkout(), os.environ.get(STORE))
    run, challenger = journal.find(store, wanted(RUN)), os.environ.get(CHALLENGER, "")
    return promoting.asked_of(run, journal.find(store, challenger) if challenger else None, _share())


def _share() -> float:
    said = os.environ.get(SHARE) or "0"
    try:
        return float(said)
    except ValueError:
        raise BadInput(Problem(what="not a share", where="parameter share", expected="0 to 0.9", got=said[:40])) from None


def _asked_at() -> datetime | None:
    """When the workflow was made; None from a template that does not say it."""
    # Kubernetes cuts off what is less than a second. Too early costs a refusal with the command to type; too late, a good release.
    said = os.environ.get(ASKED_AT)
    return approving.moment(said, ASKED_AT) if said else None


TASKS = {"check": _check, "release": _release, "back": _back}


if __name__ == "__main__":
    sys.exit(main())
