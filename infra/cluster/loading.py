"""Gets images into the cluster that is used: nothing is pulled, so what is missing there is brought here again."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from infra.cluster.choose import KIND_NODE, Kind
from infra.cluster.images import Image
from infra.cluster.process import attempt, run
from infra.cluster.progress import Phase
from infra.cluster.settings import NAME, Places
from workflows.errors import BadInput, Problem

KEY_LABEL = "countersign/key"
# Kubelet leaves a pinned image alone where containerd tells it of pins (1.7 and later); nowhere does it harm.
PIN_LABEL = "io.cri-containerd.pinned"


def ctr(places: Places, *words: str | Path) -> str:
    return run("ctr", "--address", places.socket, "--namespace", "k8s.io", *words)


def phase(places: Places, name: str, images: Iterable[Image]) -> Phase:
    every = tuple(images)
    return Phase(name=name, holds=lambda: not missing(places, every), make=lambda: import_missing(places, every), done="loaded")


def missing(places: Places, images: Iterable[Image]) -> list[Image]:
    """Those that are not there, or are there as made from something else."""
    listing = ctr(places, "images", "ls")
    return [i for i in images if not is_listed(listing, i)]


def is_listed(listing: str, image: Image) -> bool:
    label = rf"(^|[\s,]){re.escape(KEY_LABEL)}={image.key}([\s,]|$)"
    return any(line.split(maxsplit=1)[0] == image.reference and re.search(label, line) for line in listing.splitlines() if line)


def import_missing(places: Places, images: Iterable[Image]) -> None:
    for image in missing(places, images):
        import_archive(places, image.archive(places))
        ctr(places, "images", "label", image.reference, f"{PIN_LABEL}=pinned", f"{KEY_LABEL}={image.key}")


def import_archive(places: Places, archive: Path) -> None:
    ctr(places, "images", "import", archive)


def load_local(places: Places, archive: Path) -> tuple[str, ...]:
    """Imports any archive and pins what is in it; the images' names."""
    names = names_in(archive)
    import_archive(places, archive)
    for name in names:
        ctr(places, "images", "label", name, f"{PIN_LABEL}=pinned")
    return names


def by_digest(places: Places, kind: Kind, name: str) -> str:
    """The name that means exactly this image, whatever its tag comes to mean; the node is told it."""
    on_node = ctr_in_kind if kind is Kind.KIND else partial(ctr, places)
    digest = next(line.split()[2] for line in on_node("images", "ls").splitlines() if line.startswith(f"{name} "))
    reference = f"{name.rpartition(':')[0]}@{digest}"
    on_node("images", "tag", "--force", name, reference)
    on_node("images", "label", reference, f"{PIN_LABEL}=pinned")
    return reference


def ctr_in_kind(*words: str | Path) -> str:
    return run("docker", "exec", KIND_NODE, "ctr", "--namespace", "k8s.io", *words)


def load_kind(archive: Path) -> tuple[str, ...]:
    names = names_in(archive)
    run("kind", "load", "image-archive", archive, "--name", NAME)
    return names


def kind_phase(places: Places, images: Iterable[Image]) -> Phase:
    every = tuple(images)

    def lacking() -> list[Image]:
        return [i for i in every if attempt("docker", "exec", KIND_NODE, "crictl", "inspecti", "-q", i.reference).returncode]

    def make() -> None:
        for image in lacking():
            load_kind(image.archive(places))

    return Phase(name="images", holds=lambda: not lacking(), make=make, done="loaded")


def names_in(archive: Path) -> tuple[str, ...]:
    """The names that an image archive gives, as `docker save` and `buildah push docker-archive:` write them."""
    try:
        with tarfile.open(archive) as file:
            member = file.extractfile("manifest.json")
            manifest = json.load(member) if member else []
        names = tuple(n for entry in manifest for n in entry["RepoTags"] or ())
    except (OSError, tarfile.TarError, KeyError, TypeError, ValueError) as e:
        raise BadInput(
            Problem(what="not an image archive", where=str(archive), expected="what `docker save` writes", got=str(e).partition("\n")[0])
        ) from None
    if not names:
        raise BadInput(Problem(what="the archive names no image", where=str(archive), expected="name:tag given when it was saved"))
    return names
