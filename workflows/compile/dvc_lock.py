"""`dvc.lock` after a run, byte for byte as DVC would have written it, without DVC.

So `dvc status` is clean after `countersign run`, and a forced `dvc repro` that gives the same results leaves the file as
it is.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from workflows.compile.stages import Files, dependencies, parameter_keys, read_files, stage_name
from workflows.declare import Pipeline
from workflows.plan import Task, tasks
from workflows.prove import digest
from workflows.prove.record import Item, Record
from workflows.run import files as whole_files
from workflows.run.parameters import Settings


def update(root: Path, pipeline: Pipeline, settings: Settings, records: Mapping[str, Record]) -> None:
    """Put the pipeline's stages, as `records` (by task) say they ran, into `dvc.lock`; other pipelines' stages stay.

    A stage whose task was refused or failed, or did not run, is left out: DVC would not list it either.
    """
    path = root / "dvc.lock"
    lock = _load(path)
    written = read_files(root, pipeline)
    params: dict[str, Any] = {
        name: _like(written.params.get(name), settings.sections[name]) for name in settings.sections if settings.sections[name]
    }
    used = Files(params=params, policy=written.policy)
    ours = {stage_name(t): _stage(root, used, t, records[t.id]) for t in tasks(pipeline) if t.id in records and records[t.id].outcome.good}
    kept = {n: s for n, s in lock["stages"].items() if not n.startswith(f"{pipeline.name}-")}
    whole_files.write(path, _dump({"schema": "2.0", "stages": kept | ours}))


def _load(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"schema": "2.0", "stages": {}}
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    return loaded


def _dump(value: dict[str, Any]) -> bytes:
    yaml = YAML()  # set up as DVC does, line width included
    yaml.default_flow_style = False
    out = io.BytesIO()
    yaml.dump(value, out)
    return out.getvalue()


def _like(written: Any, used: Any) -> Any:
    """Values used, keys in the order of the file: DVC keeps that order."""
    if isinstance(written, dict) and isinstance(used, Mapping):
        return {k: _like(written[k], used[k]) for k in written if k in used}
    return used


def _stage(root: Path, files: Files, task: Task, record: Record) -> dict[str, Any]:
    recorded = {i.name.partition("/")[2]: i for i in (*record.inputs, *record.outputs)}
    at = {p.path: recorded[p.name] for p in (*task.inputs, *task.outputs)}
    at |= {s.at: recorded[s.name] for s in task.sources}
    stage: dict[str, Any] = {"cmd": " ".join(task.command)}
    stage["deps"] = [_entry(p, at.get(p) or _digested(root / p)) for p in dependencies(root, task)]
    if keys := parameter_keys(files, task):
        values = {task.pipeline.params_path: files.params, task.pipeline.policy_path: files.policy}
        stage["params"] = {path: {k: values[path][k] for k in sorted(names)} for path, names in sorted(keys.items())}
    stage["outs"] = [_entry(p.path, at[p.path]) for p in sorted(task.outputs, key=lambda p: p.path)]
    return stage


def _digested(path: Path) -> Item:
    d = digest.of_bytes(path.read_bytes())
    return Item(name=path.name, sha256=d.sha256, md5=d.md5, size=d.size)


def _entry(path: str, item: Item) -> dict[str, Any]:
    return {"path": path, "hash": "md5", "md5": item.md5, "size": item.size}
