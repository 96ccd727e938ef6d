"""All generated files of the repository, written or checked."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workflows.compile import dvc, events, promotion, schedules, triggers
from workflows.compile.argo import manifest_path, workflow_template
from workflows.compile.gather import gather
from workflows.compile.interface import Declared
from workflows.compile.triggers import Triggers
from workflows.declare import Pipeline
from workflows.errors import BadInput, CountersignError, Problem
from workflows.run import files, parameters
from workflows.run.session import pipeline_names

MANIFESTS = "infra/argo/workflows"
ENVIRONMENTS = "params/environments.yaml"
"""Where it is, there is something to promote to."""
FOLDERS = (MANIFESTS, schedules.FOLDER, events.FOLDER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """Generated text by path from the root, and paths of generated files that belong to no pipeline any more."""

    texts: dict[str, str]
    orphans: list[str]


def compile_all(root: Path) -> Compiled:
    """Everything that the declarations of a checkout come to; `BadInput` lists every problem of all of them."""
    found: list[Declared] = []
    problems: list[Problem] = []
    for name in pipeline_names(root):
        try:
            found.append(declared(root, load(name)))
        except CountersignError as error:
            problems += error.problems
    asked, wrong = _triggers(root, found if not problems else None)
    if problems or wrong:
        raise BadInput(*dict.fromkeys([*problems, *wrong]))
    texts = texts_of(found, asked)
    if (root / ENVIRONMENTS).exists():
        texts |= promotion.manifests()
    there = {p.relative_to(root).as_posix() for f in FOLDERS for p in (root / f).glob("*.yaml")}
    return Compiled(texts=texts, orphans=sorted(there - set(texts)))


def texts_of(pipelines: Iterable[Declared], asked: Triggers | None = None) -> dict[str, str]:
    """Path -> text of every generated file. `BadInput` lists what a back end would not take."""
    listed = list(pipelines)
    texts = {dvc.PATH: dvc.dvc_yaml(listed)}
    problems: list[Problem] = []
    for d in listed:
        try:
            texts[f"{MANIFESTS}/{manifest_path(d.pipeline)}"] = workflow_template(d)
        except BadInput as error:
            problems += error.problems
    try:
        texts |= schedules.manifests([d.pipeline for d in listed])
    except BadInput as error:
        problems += error.problems
    if problems:
        raise BadInput(*problems)
    return texts | (events.manifests(asked, listed) if asked else {})


def _triggers(root: Path, known: Iterable[Declared] | None) -> tuple[Triggers | None, list[Problem]]:
    """What is in the file of triggers, and what is wrong with it; the pipelines are looked at where all of them are `known`."""
    try:
        asked = triggers.read(root)
    except BadInput as error:
        return None, list(error.problems)
    if asked is None or known is None:
        return asked, []
    return asked, triggers.problems_with(root, asked, [d.pipeline for d in known])


def load(name: str) -> Pipeline:
    """The pipeline that `workflows/<name>.py` declares; `BadInput` where that file is no declaration."""
    where = f"workflows/{name}.py"
    try:
        pipeline: Pipeline = importlib.import_module(f"workflows.{name}").pipeline
    except Exception as error:
        raise BadInput(Problem(what=f"cannot be imported: {type(error).__name__}: {error}", where=where)) from error
    if pipeline.name != name:
        raise BadInput(Problem(what="the pipeline is not named as its file", where=where, expected=name, got=pipeline.name))
    return pipeline


def declared(root: Path, pipeline: Pipeline) -> Declared:
    """A pipeline with its functions, parameters and policies, all checked."""
    return gather(root, pipeline, parameters.read(root, pipeline, {}))


def stale(root: Path, compiled: Compiled) -> list[str]:
    """Paths whose files are not what the declarations say."""
    wrong = [p for p, text in compiled.texts.items() if not (root / p).is_file() or (root / p).read_text(encoding="utf-8") != text]
    return sorted([*wrong, *compiled.orphans])


def write(root: Path, compiled: Compiled) -> list[str]:
    """Bring the files up to date; the paths that changed."""
    changed = stale(root, compiled)
    for path in changed:
        if path in compiled.texts:
            files.write(root / path, compiled.texts[path].encode())
        else:
            (root / path).unlink()
    return changed
