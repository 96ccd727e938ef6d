"""Install manifests out of the modules that the cluster's programs are built from: copied here, never committed.

They lie where the kustomizations look for them: infra/argo/upstream and others of that name, all ignored by git.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from infra.cluster.programs import module_folder
from infra.cluster.progress import Phase
from infra.cluster.recipes import EVERY, recipe
from infra.cluster.settings import ROOT

STAMP = ".from"


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """A module's `manifests` folder, and where it goes."""

    group: str
    target: Path

    @property
    def source(self) -> str:
        made = recipe(EVERY[self.group])
        return f"{made.group.module}@{made.version}"


COPIES = (
    Copy(group="argo-workflows", target=ROOT / "infra/argo/upstream"),
    Copy(group="argo-events", target=ROOT / "infra/events/upstream"),
)
PROMOTION = (
    Copy(group="argo-rollouts", target=ROOT / "infra/rollouts/upstream"),
    Copy(group="metrics-server", target=ROOT / "infra/monitoring/upstream"),
)


def phase(*, promotion: bool = False) -> Phase:
    wanted = (*COPIES, *PROMOTION) if promotion else COPIES

    def make() -> None:
        for copy in wanted:
            if not holds(copy):
                bring(copy)

    return Phase(name="upstream manifests", holds=lambda: all(holds(c) for c in wanted), make=make, done="copied")


def holds(copy: Copy) -> bool:
    stamp = copy.target / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == copy.source


def bring(copy: Copy) -> None:
    """Copies beside the target first and stamps last: what is there is whole."""
    partial = copy.target.with_name(f".{copy.target.name}.partial")
    for old in (partial, copy.target):
        shutil.rmtree(old, ignore_errors=True)
    # Modules lie read-only in Go's cache; a copy of the bytes alone can be deleted again.
    shutil.copytree(module_folder(EVERY[copy.group]) / "manifests", partial, copy_function=shutil.copyfile)
    for folder in (partial, *(p for p in partial.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    (partial / STAMP).write_text(copy.source, encoding="utf-8")
    partial.rename(copy.target)
