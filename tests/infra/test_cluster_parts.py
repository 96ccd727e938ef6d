"""The parts of the cluster's set-up that decide something: what is built anew, what is written, what a person is told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from infra.cluster import argo, control_plane, images, kube, loading, memory, network, node, packages, recipes, services, upstream
from infra.cluster.around import whole
from infra.cluster.choose import Kind, choose
from infra.cluster.process import Daemon
from infra.cluster.progress import Phase, carry_out
from infra.cluster.settings import ROOT, Places
from workflows.errors import BadInput, Temporary


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places.from_environment({"HOME": str(tmp_path)})


def test_places_follow_the_environment(tmp_path: Path) -> None:
    home = Places.from_environment({"HOME": "/h"})
    assert (str(home.cache), str(home.state)) == ("/h/.cache/countersign/cluster", "/h/.local/state/countersign/cluster")
    moved = Places.from_environment({"HOME": "/h", "XDG_CACHE_HOME": "/x", "COUNTERSIGN_STATE": str(tmp_path)})
    assert (str(moved.cache), moved.state) == ("/x/countersign/cluster", tmp_path / "cluster")


# What is built


@pytest.mark.parametrize("group", recipes.EVERY.values(), ids=lambda g: g.name)
def test_every_group_says_what_it_builds(group: recipes.Group) -> None:
    made = recipes.recipe(group)
    assert made.version.startswith("v")
    assert made.programs
    assert "{" not in made.link_flags
    names = {name for name, _ in made.sources}
    assert names >= ({"go.mod", "go.sum"} if group.module else {"go.mod", "main.go"})


def test_the_versions_are_the_ones_that_were_tried() -> None:
    versions = {g.name: recipes.recipe(g).version for g in recipes.GROUPS}
    assert versions["kubernetes"] == "v1.34.4"
    assert versions["argo-workflows"] == "v4.0.2"
    text = (ROOT / "infra/cluster/programs/kubernetes/go.mod").read_text()
    staged = [line.split() for line in text.splitlines() if line.startswith("\tk8s.io/") and "=>" in line]
    assert staged
    assert {words[0] == words[2] and words[3] for words in staged} == {"v0.34.4"}


def test_the_key_changes_with_whatever_a_program_depends_on() -> None:
    """A cached program is used only for the same module files, flags, stamps and restored files."""
    made = recipes.recipe(recipes.EVERY["argo-workflows"])
    other_sum = dataclasses.replace(made, sources=(*made.sources[:-1], ("go.sum", b"another")))
    renamed = dataclasses.replace(made, sources=(*made.sources[:-1], ("go.sux", made.sources[-1][1])))
    other_tags = dataclasses.replace(made, group=dataclasses.replace(made.group, tags=()))
    other_stamp = dataclasses.replace(made, group=dataclasses.replace(made.group, stamps=("a.b=c",)))
    not_restored = dataclasses.replace(made, group=dataclasses.replace(made.group, restored=made.group.restored[:1]))
    keys = {m.digest for m in (made, other_sum, renamed, other_tags, other_stamp, not_restored)}
    assert len(keys) == 6
    assert made.digest == recipes.recipe(recipes.EVERY["argo-workflows"]).digest


def test_a_part_cannot_move_into_its_neighbour() -> None:
    """Each part is hashed with its length, so that two recipes with the same text in other places differ."""
    made = recipes.recipe(recipes.EVERY["pause"])
    one = dataclasses.replace(made, sources=(("go.mod", b"ab"), ("main.go", b"c")))
    other = dataclasses.replace(made, sources=(("go.mod", b"a"), ("main.go", b"bc")))
    assert one.digest != other.digest


@pytest.mark.parametrize("text", ["tool a/b\ntool c/d\n", "tool (\n\tc/d\n\ta/b\n)\n", "tool c/d\n\ntool (\n\ta/b\n)\n"])
def test_tool_lines_are_read_in_each_form(text: str) -> None:
    assert recipes.tools_in(text) == ("a/b", "c/d")


def test_a_module_that_is_not_required_is_named() -> None:
    with pytest.raises(ValueError, match=r"requires no k8s\.io/kubernetes"):
        recipes.version_in("module x\nrequire k8s.io/kubernetes-like v1.0.0\n", "k8s.io/kubernetes")


# Images


@pytest.mark.parametrize("image", [*images.NODE_IMAGES, *images.SERVICE_IMAGES, *images.PROMOTION_IMAGES], ids=lambda i: i.name)
def test_an_image_says_its_user_as_a_number_and_has_a_path(image: images.Image) -> None:
    """Without a numeric user `runAsNonRoot` refuses it; without PATH kubeadm's commands are not found in it."""
    assert image.config["User"].isdecimal()
    assert "PATH=/bin" in image.config["Env"]
    assert image.config["Entrypoint"] == [f"/bin/{image.file}"]
    assert image.reference.startswith("localhost/")
    assert image.file in recipes.recipe(recipes.EVERY[image.group]).programs


def test_an_archive_holds_the_program_and_is_the_same_every_time(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"#!program")
    written = []
    for n, time in enumerate((1, 10**9)):
        os.utime(program, (time, time))
        (tmp_path / str(n)).mkdir()
        written.append(images.write_archive(images.PAUSE, program, tmp_path / str(n)).read_bytes())
    assert written[0] == written[1]
    path = tmp_path / "0/image.tar"
    assert loading.names_in(path) == (images.PAUSE.reference,)
    with tarfile.open(path) as outer:
        (entry,) = json.loads(outer.extractfile("manifest.json").read())  # type: ignore[union-attr]
        config = outer.extractfile(entry["Config"]).read()  # type: ignore[union-attr]
        layer = outer.extractfile(entry["Layers"][0]).read()  # type: ignore[union-attr]
    assert entry["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
    assert json.loads(config)["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=BytesIO(layer)) as inner:
        assert {m.name: (m.mode, m.uid) for m in inner} == {"bin": (0o755, 0), "bin/pause": (0o755, 0), "tmp": (0o1777, 0)}
        assert inner.extractfile("bin/pause").read() == b"#!program"  # type: ignore[union-attr]


def test_kubeadm_is_told_of_the_images_that_are_built() -> None:
    _, cluster = control_plane.kubeadm_config(control_plane.versions())
    built = {i.reference for i in images.NODE_IMAGES}
    assert f"localhost/etcd:{cluster['etcd']['local']['imageTag']}" in built
    assert f"localhost/kube-apiserver:{cluster['kubernetesVersion']}" in built
    assert images.PAUSE.reference == node.PAUSE


def test_an_image_is_there_only_if_it_was_made_from_the_same() -> None:
    image = images.PAUSE
    good = f"{image.reference} application/x sha256:1 1 MiB linux/amd64 {loading.KEY_LABEL}={image.key},{loading.PIN_LABEL}=pinned\n"
    assert loading.is_listed(f"REF TYPE\n{good}", image)
    assert not loading.is_listed(good.replace(image.key, image.key + "0"), image)
    assert not loading.is_listed(good.replace(image.reference, image.reference + "1"), image)
    assert not loading.is_listed(f"{image.reference} application/x sha256:1 1 MiB linux/amd64 -\n", image)


def archive(path: Path, manifest: object) -> Path:
    content = json.dumps(manifest).encode()
    with tarfile.open(path, "w") as file:
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(content)
        file.addfile(entry, BytesIO(content))
    return path


def test_names_of_an_archive(tmp_path: Path) -> None:
    assert loading.names_in(archive(tmp_path / "a.tar", [{"RepoTags": ["localhost/a:1", "localhost/b:1"]}])) == (
        "localhost/a:1",
        "localhost/b:1",
    )
    with pytest.raises(BadInput, match="names no image"):
        loading.names_in(archive(tmp_path / "b.tar", [{"RepoTags": None}]))
    (tmp_path / "c.tar").write_bytes(b"no archive")
    with pytest.raises(BadInput, match="not an image archive"):
        loading.names_in(tmp_path / "c.tar")


# Which cluster


def test_kubeconfig_decides_then_what_is_there_then_docker(places: Places) -> None:
    foreign = {"KUBECONFIG": "/somewhere/else"}
    ours = {"KUBECONFIG": str(places.kubeconfig)}
    assert choose(places, foreign, docker=lambda: True) is Kind.EXISTING
    assert choose(places, {}, docker=lambda: True) is Kind.KIND
    assert choose(places, ours, docker=lambda: False) is Kind.LOCAL
    assert choose(places, foreign, wish="local") is Kind.LOCAL
    places.state.mkdir(parents=True)
    places.kubeconfig.touch()
    assert choose(places, {}, docker=lambda: True) is Kind.LOCAL, "what was begun without Docker goes on without it"
    (places.state / "kind").touch()
    assert choose(places, ours, docker=lambda: False) is Kind.KIND


# What the machine must have


def test_missing_packages_are_named_with_the_line_that_brings_them() -> None:
    lacking = packages.missing_packages(
        step_image=False, has=lambda program: program not in {"runc", "ctr", "containerd"}, cni=lambda: Path("/nowhere")
    )
    assert lacking == ("containerd", "containernetworking-plugins", "runc")
    assert packages.install_line(lacking) == "apt-get install --no-install-recommends containerd containernetworking-plugins runc"


def test_a_machine_that_lacks_packages_is_told_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing_packages", lambda **_: ("buildah", "runc"))
    with pytest.raises(BadInput) as caught:
        packages.phase(install=False, step_image=True).make()
    assert "buildah, runc" in str(caught.value)
    assert "apt-get install --no-install-recommends buildah runc" in caught.value.hint
    assert "--install-packages" in caught.value.hint


@pytest.mark.parametrize(
    ("system", "user", "go", "message"),
    [("Darwin", 0, "go", "needs Linux"), ("Linux", 1000, "go", "needs root"), ("Linux", 0, None, "Go, which is not installed")],
)
def test_what_the_local_cluster_cannot_do_without(
    monkeypatch: pytest.MonkeyPatch, system: str, user: int, go: str | None, message: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr("shutil.which", lambda _: go)
    with pytest.raises(BadInput, match=message) as caught:
        packages.require_local()
    assert (caught.value.exit_code, "KUBECONFIG" in caught.value.hint) == (2, True)


# What is written


def test_manifests_are_led_to_the_nodes_own_folder() -> None:
    text = "- --etcd-certfile=/etc/kubernetes/pki/a.crt\n    path: /var/lib/etcd\n  mountPath: /my/etc/kubernetes\n"
    led = control_plane.led_to(Path("/s/node"), text)
    assert "=/s/node/etc/kubernetes/pki/a.crt\n" in led
    assert "path: /s/node/var/lib/etcd\n" in led
    assert "/my/etc/kubernetes\n" in led, "a path that only ends alike is another"
    assert control_plane.led_to(Path("/s/node"), led) == led, "twice is the same as once"


def test_kubelet_never_deletes_images_or_evicts_by_percentage(places: Places) -> None:
    """Without a registry a deleted image never comes back, and machines are often nearly full by percentage."""
    config = node.kubelet_config(places)
    assert config["imageGCHighThresholdPercent"] == 100
    assert not any("%" in v for v in config["evictionHard"].values())
    assert config["failCgroupV1"] is False
    assert config["failSwapOn"] is False


def test_everything_of_the_node_lies_in_the_state_folder(places: Places) -> None:
    text = node.containerd_config(places)
    for key in ("root", "state", "address", "conf_dir"):
        values = [line.split('"')[1] for line in text.splitlines() if line.strip().startswith(f"{key} = ")]
        assert values
        assert all(v.startswith(str(places.state)) for v in values), key
    kubelet = node.kubelet_config(places)
    assert all(kubelet[k].startswith(str(places.state)) for k in ("podLogsDir", "volumePluginDir", "staticPodPath", "resolvConf"))


def test_what_is_kept_in_memory_begins_with_nothing_of_before(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that a database in memory knew of are nobody's once that is gone; they would lie there for good."""
    mounted: list[tuple[object, ...]] = []
    monkeypatch.setattr(memory, "run", lambda *words: mounted.append(words))
    left = places.containerd / "root/io.containerd.content.v1.content/blobs/sha256/of-before"
    left.mkdir(parents=True)
    assert not memory.linked(places)
    memory.set_up(places)
    assert not left.exists()
    assert mounted == [("mount", "-t", "tmpfs", "-o", "size=1g,mode=0711", "countersign", str(places.in_memory))]
    assert memory.linked(places)
    for link, target in memory.links(places).items():
        assert target.is_relative_to(places.in_memory)
        assert target.is_dir() == (link.name in memory.FOLDERS)
    assert not memory.phase(places).holds(), "links alone hold nothing: after this machine's end the mount is gone"


def test_what_containers_use_is_not_taken_away(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would go on without their files."""
    used = places.containerd / "root/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/file"
    used.parent.mkdir(parents=True)
    used.touch()
    mounts = [str(places.containerd / "run/io.containerd.runtime.v2.task/k8s.io/1/rootfs")]
    monkeypatch.setattr(memory, "mounts_below", lambda _: mounts)
    monkeypatch.setattr(memory, "run", lambda *_: None)
    with pytest.raises(Temporary, match="containers of before are still there") as caught:
        memory.set_up(places)
    assert caught.value.hint == "make cluster-down, then again"
    assert used.exists()
    mounts[:] = [str(places.in_memory)]
    memory.set_up(places)
    assert not used.exists()


def test_a_changed_configuration_is_noticed(places: Places) -> None:
    node.write_config(places, "kubelet")
    assert node.is_configured(places, "kubelet")
    (places.state / "kubelet.json").write_text("{}")
    assert not node.is_configured(places, "kubelet")


@pytest.mark.parametrize("file", ["coredns.yaml", "s3.yaml", "s3-volume.yaml", "bus-volume.yaml"])
def test_services_are_filled_in_and_name_built_images(places: Places, file: str) -> None:
    text = services.rendered(file, places)
    assert "${" not in text
    named = {line.split("image:")[1].strip() for line in text.splitlines() if line.strip().startswith("image:")}
    assert named <= {i.reference for i in images.SERVICE_IMAGES}


# What is put back


LISTING = """-P INPUT ACCEPT
-P FORWARD ACCEPT
-N KUBE-SERVICES
-N KUBE-SEP-A
-N DOCKER
-A FORWARD -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -j DOCKER
-A KUBE-SERVICES -j KUBE-SEP-A
-A DOCKER -s 10.0.0.0/8 -j ACCEPT
"""


def test_only_our_rules_and_chains_are_removed() -> None:
    assert network.removals(LISTING) == [
        ["-D", "FORWARD", "-m", "comment", "--comment", "kubernetes service portals", "-j", "KUBE-SERVICES"],
        ["-F", "KUBE-SERVICES"],
        ["-F", "KUBE-SEP-A"],
        ["-X", "KUBE-SERVICES"],
        ["-X", "KUBE-SEP-A"],
    ]
    assert network.removals("-P INPUT ACCEPT\n-N DOCKER\n-A INPUT -j DOCKER\n") == []


def test_the_machines_ends_of_a_pods_cables_are_known() -> None:
    interfaces = [{"name": "csgn-pods"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/s/netns/1"}]
    assert network.cables_in(json.dumps({"result": {"interfaces": interfaces}})) == ["veth1"]


def test_another_cluster_on_the_machine_is_left_alone(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "owner", lambda: "/other/state/cluster")
    with pytest.raises(BadInput, match="from /other/state/cluster") as caught:
        network.make(places)
    assert "COUNTERSIGN_STATE=/other/state make cluster-down" in caught.value.hint


# Phases, processes, exit codes


def test_a_phase_that_holds_is_not_made(capsys: pytest.CaptureFixture[str]) -> None:
    made: list[str] = []
    carry_out(
        [
            Phase(name="there", holds=lambda: True, make=lambda: made.append("there")),
            Phase(name="missing", holds=lambda: False, make=lambda: made.append("missing"), done="built"),
        ]
    )
    assert made == ["missing"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["there", "already"]
    assert second.split()[:2] == ["missing", "built"]


def test_a_process_is_known_by_its_record_and_its_words(tmp_path: Path) -> None:
    mark = tmp_path / "config"
    daemon = Daemon(name="sleeper", words=(sys.executable, "-c", "import time; time.sleep(60)", str(mark)), mark=mark, folder=tmp_path)
    assert not daemon.runs()
    daemon.start()
    number = daemon.pid()
    assert number is not None
    assert os.getsid(number) == number, "it outlives the shell that started it"
    stranger = dataclasses.replace(daemon, mark=tmp_path / "other")
    assert stranger.pid() is None, "a process with the same id and other words is somebody else's"
    daemon.stop()
    assert not daemon.runs()
    assert not daemon.pid_file.exists()
    daemon.stop()


def test_a_deployment_counts_only_once_it_was_looked_at() -> None:
    seen = {
        "metadata": {"generation": 2},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 2, "availableReplicas": 2, "updatedReplicas": 1},
    }
    assert kube.counts(seen) == (1, 2), "an old pod that still runs is not the new one"
    assert kube.counts({**seen, "metadata": {"generation": 3}}) == (0, 2)


def test_upstream_is_copied_again_only_for_another_version(tmp_path: Path) -> None:
    copy = upstream.Copy(group="argo-workflows", target=tmp_path)
    assert not upstream.holds(copy)
    (tmp_path / upstream.STAMP).write_text(copy.source)
    assert upstream.holds(copy)
    (tmp_path / upstream.STAMP).write_text("github.com/argoproj/argo-workflows/v4@v4.0.1")
    assert not upstream.holds(copy)


def ask(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "infra/cluster"), *words],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


def test_bad_input_ends_with_2_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("apiVersion: v1\nkind: Config\n")
    here = {"HOME": str(tmp_path), "KUBECONFIG": ""}
    for words, env, message in (
        (("env",), here, "no cluster is here"),
        (("programs", "nothing"), here, "no program nothing; there are argo, "),
        (("load", "absent.tar"), here, "absent.tar"),
        (("load", "x.tar"), {**here, "KUBECONFIG": str(tmp_path / "kubeconfig")}, "registry"),
        (("up", "--overlay", "nowhere"), here, "no overlay nowhere"),
    ):
        said = ask(*words, **env)
        assert (said.returncode, "Traceback" in said.stderr) == (2, False), said.stderr
        assert message in said.stderr


def test_where_no_cluster_can_be_had_one_line_says_so(tmp_path: Path) -> None:
    """Not a failure, except where everything is said to be there."""
    here = {"HOME": str(tmp_path), "KUBECONFIG": "", "PATH": str(tmp_path)}
    said = ask("--on", "local", "around", "no-such-program", COUNTERSIGN_TEST_ALL="", **here)
    assert (said.returncode, said.stdout) == (0, "")
    assert said.stderr.startswith("not run: what needs a cluster. ")
    assert said.stderr.endswith(" Then: make test-cluster\n")
    assert said.stderr.count("\n") == 1
    said = ask("--on", "local", "around", "no-such-program", COUNTERSIGN_TEST_ALL="1", **here)
    assert (said.returncode, "not run" in said.stderr) == (2, False)


def test_on_a_cluster_of_our_own_a_test_that_is_left_out_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless this machine lacks what the cluster does not bring: then a line names it beforehand."""
    assert packages.lacking_for_tests(tmp_path) == ("libfaketime",)
    assert whole(Kind.LOCAL, packages.lacking_for_tests(tmp_path)) == {}
    assert "apt-get install --no-install-recommends libfaketime" in capsys.readouterr().out
    (tmp_path / "x86_64-linux-gnu/faketime").mkdir(parents=True)
    (tmp_path / "x86_64-linux-gnu/faketime/libfaketimeMT.so.1").touch()
    assert whole(Kind.LOCAL, packages.lacking_for_tests(tmp_path)) == {"COUNTERSIGN_TEST_ALL": "1"}
    assert [whole(kind, ()) for kind in (Kind.KIND, Kind.EXISTING)] == [{}, {}]
    assert capsys.readouterr().out == ""


def test_who_did_not_ask_for_a_cluster_gets_none_built_and_none_broken(tmp_path: Path) -> None:
    """Whoever works with a bank's cluster has KUBECONFIG set, and types `make test`."""
    of_others = {"HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "of-others"), "COUNTERSIGN_TEST_ALL": "1"}
    local = {**of_others, "KUBECONFIG": ""}
    running = {**local, "COUNTERSIGN_STATE": str(tmp_path / "state")}
    (tmp_path / "state/cluster").mkdir(parents=True)
    for words, env, why in (
        ((), of_others, "KUBECONFIG names yours, and these tests break things."),
        (("--on", "local"), running, "There is one already, and these tests break things."),
        (("--on", "local"), local, "Its programs are not built yet (pause, kubernetes, "),
    ):
        said = ask(*words, "around", "--unasked", "no-such-program", **env)
        assert (said.returncode, said.stdout, said.stderr.count("\n")) == (0, "", 1), said.stderr
        assert said.stderr.startswith(f"not run: what needs a cluster. {why}")
        assert said.stderr.endswith(". To run it: make test-cluster\n")


def test_down_without_a_cluster_is_done_at_once(tmp_path: Path) -> None:
    said = ask("down", HOME=str(tmp_path), KUBECONFIG=str(tmp_path / "of-others"))
    assert (said.returncode, "left as it is" in said.stdout) == (0, True)


def test_the_deployments_of_an_overlay_are_waited_for() -> None:
    def named(kind: str, meta: str) -> str:
        return f"apiVersion: v1\nkind: {kind}\nmetadata: {meta}\n"

    parts = [named("Deployment", "{name: a, namespace: argo}"), named("Service", "{name: x}"), "", named("Deployment", "{name: b}")]
    assert argo.deployments_in("---\n".join(parts)) == ["argo/a", "default/b"]
    assert argo.deployments_in(parts[1]) == []
