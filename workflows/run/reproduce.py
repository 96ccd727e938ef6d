"""Run a run again, elsewhere: at its commit, with its parameters, on its data, touching nothing of the original.

What is compared afterwards is decided by the caller; here the second run is made.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from workflows import code
from workflows.errors import BadInput, CountersignError, GateRefused, NotVerified, Problem
from workflows.plan import LOCK
from workflows.prove import canonical
from workflows.prove.record import Outcome, Record, Seal
from workflows.prove.verify import Verification, last_entries
from workflows.run import environment, keys
from workflows.run.recorded_code import lay_out
from workflows.run.sources.read import GIVEN
from workflows.run.store.interface import Store

DATA = ".countersign/given"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\]+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """The run to do again: verified records, and the store that holds what it read."""

    seal: Seal
    records: Mapping[str, Record]
    store: Store

    @property
    def standing(self) -> list[Record]:
        """The last record of each task, in the order of the tasks."""
        last = last_entries(self.seal)
        return [self.records[last[t].sha256] for t in self.seal.tasks if t in last]


def original_of(verification: Verification, store: Store) -> Original:
    """What a verified run gives to go by; `NotVerified` where it did not verify: there is nothing sound to reproduce."""
    if not verification.ok or verification.seal is None:
        problems = [Problem(what=f.what, where=f.where) for f in verification.findings]
        raise NotVerified(*problems, hint="a run that does not verify cannot be reproduced: nobody knows what it was")
    if verification.seal.outcome is Outcome.FAILED:
        raise BadInput(Problem(what="this run failed: there is no result to reproduce", where=verification.run))
    return Original(seal=verification.seal, records=verification.records, store=store)


def warnings_of(original: Original) -> list[str]:
    """How the place where this runs differs from the one that was recorded: what may explain a difference in results."""
    recorded = next((r.environment for r in original.standing if r.environment), None)
    return [] if recorded is None else environment.differences(recorded, environment.envelope())


def prepare(original: Original, repository: Path | None, into: Path) -> str:
    """Lay out a workspace: code, parameters and data as they were. `into` must be empty or absent.

    Says where the code is from. `repository` is a clone, where there is one: a run that a cluster made needs none.
    """
    if into.exists() and any(into.iterdir()):
        raise BadInput(Problem(what="the folder is not empty; a reproduction overwrites nothing", where=str(into)))
    _secrets(original)
    into.mkdir(parents=True, exist_ok=True)
    said = lay_out(original.standing[0].code, original.store, repository, into)
    _parameters(original, into)
    _data(original, into)
    return said


def execute(original: Original, workspace: Path, python: str = sys.executable) -> dict[str, Any]:
    """Run the pipeline in the workspace, reusing nothing; the answer of `countersign run --json`.

    A gate that says no is an answer too: it is the caller's to compare. Any other failure is raised.
    """
    _requirements(original, workspace)
    words = [python, "-m", "workflows.cli", "run", original.seal.pipeline, "--no-cache", "--json"]
    # The second run is for the comparison alone: it must find nothing in a shared store, and leave nothing there.
    left_out = {"PYTHONPATH", "COUNTERSIGN_STORE"}
    # Nor does it send traces: its id is the first one's, and so its spans would be.
    env = {k: v for k, v in os.environ.items() if k not in left_out and not k.startswith("COUNTERSIGN_SET_")} | {
        GIVEN: str(workspace / DATA),
        "OTEL_SDK_DISABLED": "true",
    }
    done = subprocess.run(words, cwd=workspace, env=env, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603  # our own program
    try:
        answers = _objects(done.stdout)
    except ValueError:
        raise CountersignError(Problem(what=f"the second run died with exit code {done.returncode}", where=str(workspace))) from None
    if done.returncode not in {0, GateRefused.exit_code} or "artifacts" not in answers[0]:
        said = answers[-1].get("problems", ["no reason given"])
        raise CountersignError(*(Problem(what=s, where="second run") for s in said))
    return answers[0]


def _objects(text: str) -> list[dict[str, Any]]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
        at += len(text[at:]) - len(text[at:].lstrip())
    if not found:
        raise ValueError("no answer")
    return found


def _parameters(original: Original, into: Path) -> None:
    """The recorded parameters, in place of the file's: the run may have been made with --set."""
    sections = {r.task.partition("@")[0]: r.params for r in original.standing if r.params}
    # JSON is YAML. The order of the steps does not matter, and no comment is lost that a machine would read.
    (into / "params" / f"{original.seal.pipeline}.yaml").write_bytes(canonical.encode(sections) + b"\n")


def _secrets(original: Original) -> None:
    for name, recorded in sorted({x for r in original.standing for x in r.secrets.items()}):
        hint = f"ask its owner for it and set COUNTERSIGN_{name.upper()}_FILE"
        try:
            here = keys.fingerprint(name, keys.secret(name, make=False))
        except BadInput as error:
            raise BadInput(*error.problems, hint=hint) from None
        if here != recorded:
            what = f"the {name} here is not the one that the run used"
            raise BadInput(Problem(what=what, where="keys", expected=f"fingerprint {recorded}", got=here), hint=hint)


def _data(original: Original, into: Path) -> None:
    # What was read and made by no step came from outside. Which file it goes to, the declaration of that commit knows.
    made = {i.name for r in original.standing for i in r.outputs}
    for item in {i for r in original.standing for i in r.inputs if i.name not in made}:
        original.store.fetch_content(item, into / DATA / item.name.partition("/")[2])


def _requirements(original: Original, workspace: Path) -> None:
    """The locked requirements of the run must be what is installed here, to the version."""
    recorded = {r.lock for r in original.standing}
    if code.lock_digest(workspace) not in recorded:
        raise NotVerified(
            Problem(what="the locked requirements are not those of the run", where=LOCK, expected=", ".join(sorted(recorded)))
        )
    wrong = list(_not_installed(PINNED.findall((workspace / LOCK).read_text())))
    if wrong:
        hint = f"install them in an environment of their own: pip install --require-hashes -r {workspace / LOCK}"
        raise BadInput(*wrong, hint=hint)


def _not_installed(pinned: Iterable[tuple[str, str]]) -> Iterable[Problem]:
    for name, version in pinned:
        try:
            got = metadata.version(name)
        except metadata.PackageNotFoundError:
            got = "nothing"
        if got != version:
            yield Problem(what=f"{name} is not the locked version", where="this environment", expected=version, got=got)
