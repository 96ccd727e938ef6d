"""A cluster of kind, on stand-ins of `kind` and `docker` that remember what they were asked: neither is needed here.

What the real ones do with these words is not tried.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from infra.cluster import down, images, loading, up
from infra.cluster.choose import Kind, require_kind
from infra.cluster.progress import carry_out
from infra.cluster.settings import NAME, Places
from tests.infra.test_cluster_parts import archive
from workflows.errors import BadInput

STAND_IN = """#!{python}
import json, pathlib, sys, tarfile
here, name, words = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with (here / "asked").open("a") as asked:
    print(name, *words, file=asked)
cluster, loaded = here / "cluster", here / "loaded"
match [name, *words]:
    case ["kind", "get", "clusters"]:
        print(cluster.read_text() if cluster.exists() else "No kind clusters found.")
    case ["kind", "create", "cluster", "--name", called, *_]:
        cluster.write_text(called)
    case ["kind", "export", "kubeconfig", *_, path]:
        pathlib.Path(path).touch()
    case ["kind", "delete", "cluster", *_]:
        cluster.unlink()
    case ["kind", "load", "image-archive", path, *_]:
        (tags,) = [e["RepoTags"] for e in json.load(tarfile.open(path).extractfile("manifest.json"))]
        loaded.write_text("\\n".join([*(loaded.read_text().split() if loaded.exists() else ()), *tags]))
    case ["docker", "inspect", _]:
        sys.exit(not cluster.exists())
    case ["docker", "exec", _, "crictl", "inspecti", "-q", image]:
        sys.exit(not loaded.exists() or image not in loaded.read_text().split())
    case ["docker", "exec", _, "ctr", *_, "images", "ls"]:
        for n, image in enumerate(loaded.read_text().split()):
            print(image, "application/vnd.oci.image.manifest.v1+json", "sha256:" + f"{{n:064x}}")
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places.from_environment({"HOME": str(tmp_path)})
    found.state.mkdir(parents=True)
    return found


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the stand-ins, and nothing else on the path."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("kind", "docker", "go"):
        (folder / name).write_text(STAND_IN.format(python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def asked(tools: Path, word: str) -> list[str]:
    """What a stand-in was asked to change or to load, in order."""
    return [line for line in (tools / "asked").read_text().splitlines() if f" {word} " in line]


def test_a_cluster_is_made_once_and_taken_away(places: Places, tools: Path) -> None:
    for _ in range(2):
        carry_out([up.kind_phase(places)])
    assert asked(tools, "create") == [f"kind create cluster --name {NAME} --wait 180s --kubeconfig {places.kubeconfig}"]
    assert places.kubeconfig.exists()
    carry_out(down.kind_phases(places))
    assert asked(tools, "delete") == [f"kind delete cluster --name {NAME}"]
    assert not places.state.exists()


def test_a_cluster_whose_kubeconfig_was_lost_is_asked_for_it_again(places: Places, tools: Path) -> None:
    carry_out([up.kind_phase(places)])
    places.kubeconfig.unlink()
    carry_out([up.kind_phase(places)])
    assert places.kubeconfig.exists()
    assert len(asked(tools, "create")) == 1


def test_only_images_that_the_node_lacks_are_loaded(places: Places, tools: Path) -> None:
    chosen = images.SERVICE_IMAGES[:2]
    places.archives.mkdir(parents=True)
    for image in chosen:
        archive(image.archive(places), [{"RepoTags": [image.reference]}])
    for wanted in (chosen[:1], chosen, chosen):
        carry_out([loading.kind_phase(places, wanted)])
    assert asked(tools, "load") == [f"kind load image-archive {i.archive(places)} --name {NAME}" for i in chosen]


def test_the_step_image_is_named_by_the_digest_that_the_node_has(places: Places, tools: Path, tmp_path: Path) -> None:
    """A tag would leave records without the image that their step ran in."""
    loading.load_kind(archive(tmp_path / "steps.tar", [{"RepoTags": ["localhost/other:1", "localhost/steps:1"]}]))
    named = loading.by_digest(places, Kind.KIND, "localhost/steps:1")
    assert named == f"localhost/steps@sha256:{1:064x}"
    assert asked(tools, "tag") == [f"docker exec {NAME}-control-plane ctr --namespace k8s.io images tag --force localhost/steps:1 {named}"]


@pytest.mark.parametrize(
    ("lacking", "says"),
    [("docker", "needs a Docker engine, and none answers"), ("kind", "kind is not installed"), ("go", "Go, which is not installed")],
)
def test_what_kind_cannot_do_without_is_named(tools: Path, lacking: str, says: str) -> None:
    require_kind()
    (tools / lacking).unlink()
    with pytest.raises(BadInput, match=says):
        require_kind()
