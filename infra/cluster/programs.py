"""Builds programs from Go modules into the cache, each group once for each state of its module files."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from infra.cluster.locks import locked
from infra.cluster.process import run
from infra.cluster.progress import Phase
from infra.cluster.recipes import ENVIRONMENT, EVERY, GROUPS, PROMOTION, Group, Recipe, Restored, recipe
from infra.cluster.settings import Places

NICE = ("nice", "-n", "5")


def wanted(*, promotion: bool) -> tuple[Group, ...]:
    return (*GROUPS, *PROMOTION) if promotion else GROUPS


def folder(places: Places, made: Recipe) -> Path:
    return places.cache / "programs" / f"{made.group.name}-{made.digest}"


def phases(places: Places, groups: Iterable[Group]) -> list[Phase]:
    return [phase(places, recipe(group)) for group in groups]


def phase(places: Places, made: Recipe) -> Phase:
    count = len(made.programs)
    return Phase(
        name=f"{made.group.name} {made.version}",
        holds=lambda: folder(places, made).is_dir(),
        make=lambda: build(places, made),
        done="built",
        takes=f"building {count} program{'s' if count > 1 else ''}, about {made.group.takes} with an empty cache",
    )


def program(places: Places, name: str) -> Path:
    """Where a program lies (or will lie, once built)."""
    for group in EVERY.values():
        made = recipe(group)
        if name in made.programs:
            return folder(places, made) / name
    known = sorted(p for g in EVERY.values() for p in recipe(g).programs)
    raise KeyError(f"no program {name}; there are {', '.join(known)}")


def build(places: Places, made: Recipe) -> Path:
    """Builds beside the final place and moves the whole folder there: it is complete or absent."""
    final, name = folder(places, made), made.group.name
    with locked(final.parent / f".{name}.lock", whose=name):
        if final.is_dir():
            return final
        for left in final.parent.glob(f".{name}-*"):  # of a build that was cut short: whoever holds the lock is alone
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=final.parent) as scratch:
            compile_group(made, Path(scratch) / "source", Path(scratch) / "out").rename(final)
    return final


def compile_group(made: Recipe, source: Path, out: Path) -> Path:
    shutil.copytree(made.group.folder, source)
    out.mkdir()
    if made.group.restored:
        vendor(source, made.group)
    run(*NICE, "go", "build", *made.flags, "-o", f"{out}/", *made.packages, cwd=source, env=ENVIRONMENT)
    for name, package in made.programs.items():
        (out / name_by_go(package)).rename(out / name)
    return out


def name_by_go(package: str) -> str:
    """How `go build` names a package's program: after its folder, a major version left out."""
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


def vendor(source: Path, group: Group) -> None:
    """All dependencies as files, with those put in that the module's archive lacks.

    `-e`: they are missed already here, and whatever else were missing would fail the build.
    """
    run(*NICE, "go", "mod", "vendor", "-e", cwd=source, env=ENVIRONMENT)
    for missing in group.restored:
        restore(source / "vendor" / str(group.module), missing)


def restore(module: Path, missing: Restored) -> None:
    path = module / missing.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if missing.link:
        path.symlink_to(missing.link)
    else:
        path.write_text(missing.text, encoding="utf-8")


def module_folder(group: Group) -> Path:
    """The unpacked source of a group's module, fetched where it is not there yet and checked against go.sum."""
    told = run("go", "mod", "download", "-json", str(group.module), cwd=group.folder, env=ENVIRONMENT)
    return Path(json.loads(told)["Dir"])


def link_programs(places: Places, groups: Iterable[Group]) -> None:
    """Puts links to the built programs into one folder for a person's PATH."""
    places.bin.mkdir(parents=True, exist_ok=True)
    for group in groups:
        made = recipe(group)
        for name in made.programs:
            partial = places.bin / f".{name}"
            partial.unlink(missing_ok=True)
            partial.symlink_to(folder(places, made) / name)
            partial.replace(places.bin / name)
