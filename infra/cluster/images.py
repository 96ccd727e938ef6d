"""Images of the built programs, each with nothing but one program in it, as archives in the cache.

They are written here, as there is nothing to build: a layer of one file. So a cluster of kind needs no builder's
privileges, a local one no builder, and the same program has the same image digest on every machine.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.cluster import programs
from infra.cluster.locks import locked
from infra.cluster.progress import Phase
from infra.cluster.recipes import EVERY, recipe
from infra.cluster.settings import IMAGE_USER, Places

ROOT_USER = 0
LAYOUT = "one program and an empty /tmp"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image and the program in it. The tag is the program's version, unless something asks for another by name.

    `user` is a number, as `runAsNonRoot` refuses an image that does not say.
    """

    name: str
    group: str
    program: str = ""
    tag: str = ""
    user: int = IMAGE_USER

    @property
    def reference(self) -> str:
        return f"localhost/{self.name}:{self.tag or recipe(EVERY[self.group]).version}"

    @property
    def file(self) -> str:
        """The name of the program in the image, below /bin."""
        return self.program or self.name

    @property
    def config(self) -> dict[str, Any]:
        """How the program is started: `PATH` as kubeadm names programs without a folder."""
        return {"Entrypoint": [f"/bin/{self.file}"], "Env": ["PATH=/bin", "HOME=/tmp"], "User": str(self.user)}

    @property
    def key(self) -> str:
        """sha256, hex, over what the image is made of."""
        made_of = [LAYOUT, recipe(EVERY[self.group]).digest, self.reference, self.config]
        return hashlib.sha256(canonical(made_of)).hexdigest()

    def archive(self, places: Places) -> Path:
        return places.archives / f"{self.name}-{self.key}.tar"


PAUSE = Image(name="pause", group="pause", tag="3.10.1")
# What a node needs before it can be asked anything. kubeadm's manifests read keys that only root may read.
NODE_IMAGES = (
    PAUSE,
    Image(name="etcd", group="etcd", user=ROOT_USER),
    *(Image(name=n, group="kubernetes", user=ROOT_USER) for n in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")),
)
SERVICE_IMAGES = (
    Image(name="coredns", group="coredns"),
    Image(name="versitygw", group="versitygw"),
    Image(name="workflow-controller", group="argo-workflows"),
    Image(name="argoexec", group="argo-workflows"),
    Image(name="argocli", group="argo-workflows", program="argo"),
    Image(name="argo-events", group="argo-events"),
    Image(name="nats-server", group="nats-server"),
)
PROMOTION_IMAGES = (
    Image(name="argo-rollouts", group="argo-rollouts", program="rollouts-controller"),
    Image(name="metrics-server", group="metrics-server"),
    Image(name="prometheus", group="prometheus"),
)


def service_images(*, promotion: bool) -> tuple[Image, ...]:
    return (*SERVICE_IMAGES, *PROMOTION_IMAGES) if promotion else SERVICE_IMAGES


def phase(places: Places, images: Iterable[Image]) -> Phase:
    every = tuple(images)

    def make() -> None:
        for image in every:
            build(places, image)

    return Phase(name="image archives", holds=lambda: all(i.archive(places).is_file() for i in every), make=make, done="built")


def build(places: Places, image: Image) -> Path:
    """The image's archive, made where it is missing: complete or absent. The same program gives the same bytes."""
    final = image.archive(places)
    with locked(places.archives / f".{image.name}.lock", whose=image.name):
        if final.is_file():
            return final
        for left in places.archives.glob(f".{image.name}-*"):  # of a build that was cut short
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=f".{image.name}-", dir=places.archives) as scratch:
            write_archive(image, programs.program(places, image.file), Path(scratch)).replace(final)
    return final


def write_archive(image: Image, program: Path, scratch: Path) -> Path:
    """As `docker save` writes one: a layer, what the image is started with, and which name it has."""
    layer = scratch / "layer.tar"
    with tarfile.open(layer, "w", format=tarfile.USTAR_FORMAT) as tar:
        add_folder(tar, "bin", 0o755)
        add_file(tar, f"bin/{image.file}", program, 0o755)
        add_folder(tar, "tmp", 0o1777)
    with layer.open("rb") as file:
        layer_digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = canonical(
        {
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": f"{image.file}, alone in an image"}],
        }
    )
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = canonical([{"Config": config_name, "RepoTags": [image.reference], "Layers": [f"{layer_digest}.tar"]}])
    out = scratch / "image.tar"
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        add_file(tar, f"{layer_digest}.tar", layer, 0o644)
        for name, content in ((config_name, config), ("manifest.json", manifest)):
            (scratch / name).write_bytes(content)
            add_file(tar, name, scratch / name, 0o644)
    return out


def add_folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def add_file(tar: tarfile.TarFile, name: str, path: Path, mode: int) -> None:
    """Without the file's own owner and time, so that nothing but the content counts."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = path.stat().st_size, mode
    with path.open("rb") as file:
        tar.addfile(entry, file)


def architecture() -> str:
    """The machine's, by the name that images use."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
