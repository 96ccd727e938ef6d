"""A run's records -> `dvc.lock`, in the bytes that DVC itself would write. DVC is not used.

A stage is written when its task's last record is good and its code is still what the record says. Any other stage is
left as it is in the file, as DVC leaves it when a command fails.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from workflows import code
from workflows.compile.gather import gather
from workflows.compile.interface import Declared
from workflows.compile.stages import command, dependencies, parameter_keys, stage_name
from workflows.declare import Pipeline
from workflows.errors import BadInput, Problem
from workflows.plan import LOCK, Task, tasks
from workflows.prove import digest
from workflows.prove.digest import Digests
from workflows.prove.record import Record
from workflows.run import files
from workflows.run.parameters import Settings, as_written

PATH = "dvc.lock"
SCHEMA = "2.0"


def update(root: Path, pipeline: Pipeline, settings: Settings, records: Mapping[str, Record]) -> bool:
    """Bring `dvc.lock` up to the last record of each task; true where that changed it. Other stages are kept."""
    path = root / PATH
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = merged(before, stages_of(root, pipeline, settings, records))
    if after == before:
        return False
    files.write(path, after.encode())
    return True


def stages_of(root: Path, pipeline: Pipeline, settings: Settings, records: Mapping[str, Record]) -> dict[str, Any]:
    """The lock's entries of the tasks that are done, by stage name, in the order of the tasks."""
    declared, seen = gather(root, pipeline, as_written(root, pipeline, settings)), _Files(root=root)
    done = [t for t in tasks(pipeline) if t.id in records and records[t.id].outcome.good]
    # What a step states the lineage of, it did not read itself; and where a cluster's run is sealed, there is no data to look at.
    read = {s.at: d for t in done for s in t.sources if (d := _items(records[t.id]).get(f"{t.pipeline.name}/{s.name}"))}
    return {stage_name(t): _entry(declared, t, records[t.id], seen, read) for t in done if _still(seen, t, records[t.id])}


def merged(before: str, stages: Mapping[str, Any]) -> str:
    """The text of the lock with these stages in it: known ones where they were, new ones at the end."""
    lock = read(before)
    lock["stages"].update(stages)
    out = io.StringIO()
    _yaml().dump(lock, out)
    return out.getvalue()


def read(text: str) -> Any:
    """A lock's text as a mapping with `schema` and `stages`; `BadInput` where it is none."""
    try:
        lock = _yaml().load(text) or {}
        lock.setdefault("schema", SCHEMA)
        lock.setdefault("stages", {}).update({})
    except (YAMLError, AttributeError) as error:
        raise BadInput(
            Problem(what=f"not a lock file: {' '.join(str(error).split())[:200]}", where=PATH),
            hint="remove it and run again: a run writes it anew",
        ) from None
    return lock


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
    """Digests of files of the checkout, each taken once."""

    root: Path
    known: dict[Path, Digests] = field(default_factory=dict)

    def of(self, path: Path) -> Digests:
        if path not in self.known:
            with path.open("rb") as stream:
                self.known[path] = digest.of_stream(stream)
        return self.known[path]

    def sha256(self, path: Path) -> str:
        return self.of(path).sha256


def _still(seen: _Files, task: Task, record: Record) -> bool:
    """True where the code that the entry would name is the code that ran."""
    ran = (record.code.step, record.lock)
    try:
        return ran == (code.step_digest(seen.root, task.step, seen.sha256), seen.sha256(seen.root / LOCK))
    except (BadInput, FileNotFoundError):
        return False


def _items(record: Record) -> dict[str, Digests]:
    return {i.name: i.digests for i in (*record.inputs, *record.outputs)}


def _entry(declared: Declared, task: Task, record: Record, seen: _Files, read: Mapping[str, Digests]) -> dict[str, Any]:
    name = task.pipeline.name
    recorded = _items(record)
    known = {**read, **{s.at: recorded[f"{name}/{s.name}"] for s in task.sources}}
    known |= {p.path: recorded[f"{name}/{p.name}"] for p in (*task.inputs, *task.outputs)}
    entry: dict[str, Any] = {"cmd": command(task)}
    entry["deps"] = [_file(seen, p, known.get(p)) for p in dependencies(declared, task)]
    values = {s: f.section for s, f in declared.steps.items()}
    sections = {declared.pipeline.params_path: values, declared.pipeline.policy_path: declared.policies}
    params = {path: {k: sections[path][k] for k in keys} for path, keys in parameter_keys(declared, task.step).items()}
    if params:
        entry["params"] = params
    entry["outs"] = [_file(seen, p.path, known[p.path]) for p in sorted(task.outputs, key=lambda p: p.path)]
    # A section that two stages share would be written once, with a reference to it; DVC writes stage by stage.
    return copy.deepcopy(entry)


def _file(seen: _Files, path: str, known: Digests | None) -> dict[str, Any]:
    d = known or seen.of(seen.root / path)
    listed = {"path": path, "hash": "md5", "md5": d.md5, "size": d.size}
    return {**listed, "isexec": True} if _executable(seen.root / path) else listed


def _executable(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o111)
    except FileNotFoundError:
        return False


def _yaml() -> YAML:
    # As DVC has it: YAML 1.2, comments and order kept, long lines folded.
    yaml = YAML()
    yaml.default_flow_style = False
    return yaml
