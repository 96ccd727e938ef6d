"""All generated files of the repository, written or checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workflows.compile.argo import argo_name, workflow_template
from workflows.compile.dvc import dvc_yaml
from workflows.declare import Pipeline, problems_of
from workflows.errors import BadInput, CountersignError, Problem
from workflows.run import files, parameters

MANIFESTS = "infra/argo/workflows"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """Generated text by path from the root, and paths of generated files that belong to no pipeline any more."""

    texts: dict[str, str]
    orphans: list[str]


def compile_all(root: Path, pipelines: list[Pipeline]) -> Compiled:
    """Everything that declarations come to; `BadInput` lists every problem of every declaration, parameter and policy."""
    problems = [p for pipeline in pipelines for p in _problems(root, pipeline)]
    if problems:
        raise BadInput(*dict.fromkeys(problems))
    texts = {f"{MANIFESTS}/{argo_name(p.name)}.yaml": workflow_template(root, p) for p in pipelines}
    texts["dvc.yaml"] = dvc_yaml(root, pipelines)
    there = {p.relative_to(root).as_posix() for p in (root / MANIFESTS).glob("*.yaml")}
    return Compiled(texts=texts, orphans=sorted(there - set(texts)))


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


def _problems(root: Path, pipeline: Pipeline) -> list[Problem]:
    if declared := problems_of(pipeline):
        return declared  # what follows relies on a sound graph
    try:
        parameters.read(root, pipeline, {})
    except CountersignError as error:
        return list(error.problems)
    return []
