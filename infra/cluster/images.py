"""Images of the built programs, each from scratch with one program in it, as archives in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infra.cluster import programs
from infra.cluster.locks import locked
from infra.cluster.process import run
from infra.cluster.progress import Phase
from infra.cluster.recipes import EVERY, recipe
from infra.cluster.settings import IMAGE_USER, Places

Engine = Literal["buildah", "docker"]
ROOT_USER = 0


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
    def containerfile(self) -> str:
        return f"""FROM scratch
COPY tmp /tmp
COPY {self.file} /bin/{self.file}
ENV PATH=/bin HOME=/tmp
USER {self.user}
ENTRYPOINT ["/bin/{self.file}"]
"""

    @property
    def key(self) -> str:
        """sha256, hex, over what the image is made of."""
        return hashlib.sha256(f"{recipe(EVERY[self.group]).digest}\n{self.reference}\n{self.containerfile}".encode()).hexdigest()

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
)


def service_images(*, promotion: bool) -> tuple[Image, ...]:
    return (*SERVICE_IMAGES, *PROMOTION_IMAGES) if promotion else SERVICE_IMAGES


def phase(places: Places, images: Iterable[Image], engine: Engine) -> Phase:
    every = tuple(images)

    def make() -> None:
        for image in every:
            build(places, image, engine)

    return Phase(name="image archives", holds=lambda: all(i.archive(places).is_file() for i in every), make=make, done="built")


def build(places: Places, image: Image, engine: Engine) -> Path:
    """The image's archive, made where it is missing: complete or absent."""
    final = image.archive(places)
    with locked(places.archives / f".{image.name}.lock", whose=image.name):
        if final.is_file():
            return final
        for left in places.archives.glob(f".{image.name}-*"):  # of a build that was cut short
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=f".{image.name}-", dir=places.archives) as scratch:
            context = lay_out(Path(scratch) / "context", image, programs.program(places, image.file))
            pack(engine, image, context, Path(scratch)).replace(final)
    return final


def lay_out(context: Path, image: Image, program: Path) -> Path:
    (context / "tmp").mkdir(parents=True)
    (context / "tmp").chmod(0o1777)
    (context / "Containerfile").write_text(image.containerfile, encoding="utf-8")
    os.link(program, context / image.file)
    return context


def pack(engine: Engine, image: Image, context: Path, scratch: Path) -> Path:
    out = scratch / "image.tar"
    if engine == "docker":
        run("docker", "build", "--quiet", "--tag", image.reference, "--file", context / "Containerfile", context)
        run("docker", "save", "--output", out, image.reference)
        return out
    # A store of its own, gone with the scratch folder; copies instead of mounts, as there is only one layer.
    buildah = ("nice", "buildah", "--root", scratch / "root", "--runroot", scratch / "run", "--storage-driver", "vfs")
    made = ("--format", "docker", "--layers=false", "--timestamp", "0", "--tag", image.reference)
    run(*buildah, "bud", "--quiet", *made, "--file", context / "Containerfile", context)
    run(*buildah, "push", "--quiet", image.reference, f"docker-archive:{out}:{image.reference}")
    return out
