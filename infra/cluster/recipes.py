"""Which programs the cluster is made of, which module each comes from, and how it is built. Pure: what a recipe's digest is made of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from infra.cluster.settings import PROGRAMS

LINK = "-s -w"
TIME_ZONES = ("timetzdata",)  # an image from scratch has none of its own
ENVIRONMENT = MappingProxyType({"CGO_ENABLED": "0", "GOOS": "linux", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"})
ARGO = "github.com/argoproj/argo-workflows/v4"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Programs that one `go.mod` builds.

    `module` is the one whose version names the group's; none for our own. `stamps` are the variables that carry the
    version into the program, with `{version}`, `{major}` and `{minor}` filled in. `tags` are Go's. `rename` is for packages whose folder
    is not named as the program is. `restored` are files that a module's archive lacks: where they go below the vendored
    module, and either the text or the link to put there.
    """

    name: str
    module: str | None
    stamps: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    restored: tuple[Restored, ...] = ()
    takes: str = "a minute"

    @property
    def folder(self) -> Path:
        return PROGRAMS / self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """A file that is put into a vendored module."""

    path: str
    text: str = ""
    link: str = ""


def kubernetes_stamps() -> tuple[str, ...]:
    values = {"gitVersion": "{version}", "gitMajor": "{major}", "gitMinor": "{minor}", "gitTreeState": "clean"}
    return tuple(f"k8s.io/{package}.{k}={v}" for package in ("component-base/version", "client-go/pkg/version") for k, v in values.items())


PLACEHOLDER = "<!doctype html><title>Argo</title><p>This server was built without the UI's pages; its API works.</p>\n"

# In the order in which they are wanted.
GROUPS = (
    Group(name="pause", module=None),
    Group(name="kubernetes", module="k8s.io/kubernetes", stamps=kubernetes_stamps(), takes="4 minutes on two cores"),
    Group(name="etcd", module="go.etcd.io/etcd/server/v3", rename=MappingProxyType({"go.etcd.io/etcd/server/v3": "etcd"})),
    Group(
        name="argo-workflows",
        module=ARGO,
        stamps=(f"{ARGO}.version={{version}}",),
        tags=TIME_ZONES,
        restored=(
            # A link in the source, and archives of modules drop links; and pages that another tool chain builds.
            Restored(path="workflow/executor/osspecific/signal_linux.go", link="signal_darwin.go"),
            Restored(path="ui/dist/app/index.html", text=PLACEHOLDER),
        ),
        takes="4 minutes on two cores",
    ),
    Group(name="versitygw", module="github.com/versity/versitygw", stamps=("main.Version={version}",)),
    Group(name="coredns", module="github.com/coredns/coredns", takes="2 minutes on two cores"),
    Group(
        name="argo-events",
        module="github.com/argoproj/argo-events",
        stamps=("github.com/argoproj/argo-events.version={version}",),
        tags=TIME_ZONES,
        rename=MappingProxyType({"github.com/argoproj/argo-events/cmd": "argo-events"}),
        takes="3 minutes on two cores",
    ),
    Group(
        name="nats-server",
        module="github.com/nats-io/nats-server/v2",
        rename=MappingProxyType({"github.com/nats-io/nats-server/v2": "nats-server"}),
    ),
    Group(name="helm", module="helm.sh/helm/v4", stamps=("helm.sh/helm/v4/internal/version.version={version}",)),
)
PROMOTION = (
    Group(
        name="argo-rollouts",
        module="github.com/argoproj/argo-rollouts",
        stamps=("github.com/argoproj/argo-rollouts/utils/version.version={version}",),
        takes="2 minutes on two cores",
    ),
    Group(
        name="metrics-server",
        module="sigs.k8s.io/metrics-server",
        stamps=("sigs.k8s.io/metrics-server/pkg/version.gitVersion={version}",),
        takes="2 minutes on two cores",
    ),
    Group(
        name="prometheus",
        module="github.com/prometheus/prometheus",
        stamps=("github.com/prometheus/common/version.Version={version}",),
        # Of the many places that it can look for targets, the cluster's own is enough, and builds in a third of the time.
        tags=("remove_all_sd", "enable_kubernetes_sd", *TIME_ZONES),
        takes="4 minutes on two cores",
    ),
)
DSSE = Group(name="dsse", module=None, takes="ten seconds")
"""No part of a cluster: a second reader of envelopes, for tests."""
EVERY = {g.name: g for g in (*GROUPS, *PROMOTION, DSSE)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A group together with what its module files say: all that its programs depend on, but for Go itself."""

    group: Group
    version: str
    packages: tuple[str, ...]
    sources: tuple[tuple[str, bytes], ...]

    @property
    def programs(self) -> Mapping[str, str]:
        """Each program's name, and the package that it is built from."""
        return {self.group.rename.get(p, p.rsplit("/", 1)[-1]): p for p in self.packages}

    @property
    def flags(self) -> tuple[str, ...]:
        """What `go build` is told, but for where to put what."""
        tags = (f"-tags={','.join(self.group.tags)}",) if self.group.tags else ()
        vendored = ("-mod=vendor",) if self.group.restored else ()
        return (*vendored, "-trimpath", *tags, f"-ldflags={self.link_flags}")

    @property
    def link_flags(self) -> str:
        numbers = re.findall(r"\d+", self.version)
        filled = [s.format(version=self.version, major=numbers[0], minor=numbers[1]) for s in self.group.stamps]
        return " ".join([LINK, *(f"-X {s}" for s in filled)])

    @property
    def digest(self) -> str:
        """sha256, hex, of everything above: tagged, each part with its length before it."""
        restored = [f"{r.path}\0{r.link}\0{r.text}" for r in self.group.restored]
        how = [*self.flags, *(f"{k}={v}" for k, v in ENVIRONMENT.items()), *restored, *self.packages, *self.programs]
        parts = [b"countersign/cluster/programs/1", *(w.encode() for w in how)]
        for name, content in self.sources:
            parts += [name.encode(), content]
        return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()


def recipe(group: Group) -> Recipe:
    names = sorted(p.name for p in group.folder.iterdir() if p.name in {"go.mod", "go.sum"} or p.suffix == ".go")
    sources = tuple((n, (group.folder / n).read_bytes()) for n in names)
    text = dict(sources)["go.mod"].decode()
    return Recipe(group=group, version=version_in(text, group.module), packages=tools_in(text), sources=sources)


def version_in(text: str, module: str | None) -> str:
    """The version that a go.mod requires of a module."""
    if module is None:
        return "v1.0.0"
    found = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"go.mod requires no {module}")
    return found[1]


def tools_in(text: str) -> tuple[str, ...]:
    """The packages of a go.mod's tool lines, sorted."""
    block = re.search(r"^tool \((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    lines = block[1].split() if block else []
    return tuple(sorted({*lines, *re.findall(r"^tool ([^\s(]+)$", text, re.MULTILINE)}))
