"""What containerd writes down for each container lies in memory: it waits for the disk several times a container otherwise.

Images and containers' files stay on disk. What is in memory survives the end of any program and is lost with the machine,
as the containers themselves are; then the images are loaded anew.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from infra.cluster.process import run
from infra.cluster.progress import Phase
from infra.cluster.settings import Places
from workflows.errors import Temporary

SIZE = "1g"
# Below containerd's root, which has no settings for them: databases whose every change is synced, and files made so that they survive.
FOLDERS = ("io.containerd.metadata.v1.bolt", "io.containerd.grpc.v1.cri", "io.containerd.runtime.v2.task")
DATABASE = "io.containerd.snapshotter.v1.overlayfs/metadata.db"


def state(places: Places) -> Path:
    return places.in_memory / "run"


def runc(places: Places) -> Path:
    return places.in_memory / "runc"


def phase(places: Places) -> Phase:
    return Phase(name="memory", holds=lambda: places.in_memory.is_mount() and linked(places), make=lambda: set_up(places), done="mounted")


def linked(places: Places) -> bool:
    return all(link.is_symlink() and link.readlink() == target for link, target in links(places).items())


def links(places: Places) -> dict[Path, Path]:
    root = places.containerd / "root"
    return {root / name: places.in_memory / Path(name).name for name in (*FOLDERS, DATABASE)}


def set_up(places: Places) -> None:
    """Begin with an empty memory and, as one knows nothing of the other, with no images and containers."""
    if any(Path(point) != places.in_memory for point in mounts_below(places.containerd)):
        raise Temporary(f"containers of before are still there, in {places.containerd}", hint="make cluster-down, then again")
    with suppress(FileNotFoundError):
        shutil.rmtree(places.containerd / "root")
    if not places.in_memory.is_mount():
        places.in_memory.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0711", "countersign", str(places.in_memory))
    for link, target in links(places).items():
        if link.name in FOLDERS:
            target.mkdir(exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def mounts_below(folder: Path) -> list[str]:
    """Mount points in a folder, the last mounted first."""
    points = [line.split()[4].encode().decode("unicode_escape") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [p for p in reversed(points) if Path(p).is_relative_to(folder)]
