"""Which files decide what a step computes: its module, what that imports from the project, and its sources' schemas.

They are found without importing anything.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

from workflows.declare import Source, Step
from workflows.errors import BadInput, Problem
from workflows.plan import LOCK
from workflows.prove import digest

CODEC = "workflows/run/codec.py"  # it decides the bytes of every output


def files_of(root: Path, step: Step) -> tuple[str, ...]:
    """Paths, from the root, of the modules, templates and schemas that decide what `step` computes; sorted."""
    module = step.run.split(":")[0]
    path = _path_of(root, module)
    if path is None:
        raise BadInput(Problem(what=f"no module {module}", where=step.name, expected=f"{module.replace('.', '/')}.py"))
    schemas = {i.schema for i in step.inputs if isinstance(i, Source) and i.schema}
    if missing := sorted(s for s in schemas if not (root / s).is_file()):
        raise BadInput(*(Problem(what="no such schema", where=f"{step.name}: {s}") for s in missing))
    return tuple(sorted({CODEC, *schemas, *_closure(root, path)}))


def step_digest(root: Path, step: Step, sha256: Callable[[Path], str] | None = None) -> str:
    """Digest of the step's own code and of what it is asked to run. `sha256` may know digests that were taken already."""
    listed = ((p, (sha256 or sha256_of)(root / p)) for p in files_of(root, step))
    return digest.tagged("step-code", step.run, digest.of_tree(listed))


def lock_digest(root: Path) -> str:
    """sha256 of the locked requirements; `BadInput` where there are none."""
    try:
        return sha256_of(root / LOCK)
    except FileNotFoundError:
        raise BadInput(Problem(what="the locked requirements are missing", where=LOCK), hint="restore the file from git") from None


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _closure(root: Path, first: str) -> set[str]:
    found, waiting = set[str](), [first]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.endswith(".py"):
            waiting += [p for p in _imports(root, path, (root / path).stat().st_mtime_ns) if p not in found]
    return found


@functools.lru_cache(maxsize=1024)
def _imports(root: Path, path: str, _changed: int) -> tuple[str, ...]:
    """What one module imports from its own package, and the templates that lie in a folder it names."""
    tree = ast.parse((root / path).read_text(encoding="utf-8"), filename=path)
    package = path.split("/", 1)[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    own = {p for n in names if n.split(".")[0] == package and (p := _path_of(root, n))}
    own |= {p for n in list(own) if (p := str(Path(n).parent / "__init__.py")) and (root / p).exists()}
    folders = {root / package / n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value == "templates"}
    own |= {str(f.relative_to(root)) for folder in folders if folder.is_dir() for f in folder.rglob("*") if f.is_file()}
    return tuple(sorted(p for p in own if p.endswith((".py", ".html", ".css", ".js", ".j2", ".svg"))))


def _path_of(root: Path, module: str) -> str | None:
    stem = module.replace(".", "/")
    return next((p for p in (f"{stem}.py", f"{stem}/__init__.py") if (root / p).is_file()), None)
