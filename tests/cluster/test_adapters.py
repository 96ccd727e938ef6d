"""Both adapters keep the same contract, and say what is wrong in words that help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.fake_api import NAMESPACE, FakeApi
from workflows.cluster import connect
from workflows.cluster.interface import Phase, Progress, Submission, Workflows
from workflows.cluster.kube import Kube
from workflows.errors import BadInput, CountersignError, Temporary

TOY = Submission(name="toy-1", template="toy", arguments={"revision": "abc"}, labels={"countersign/pipeline": "toy"})


@pytest.fixture
def kube(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kube:
    from kubernetes.config import kube_config

    path = api.kubeconfig(tmp_path / "config")
    monkeypatch.setenv("KUBECONFIG", path)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", path)
    for name in ("ARGO_SERVER", "ARGO_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    found = connect.workflows(None, None)
    assert isinstance(found, Kube)
    return found


@pytest.fixture
def server(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Workflows:
    monkeypatch.setenv("ARGO_SERVER", api.url.removeprefix("http://"))
    monkeypatch.setenv("ARGO_SECURE", "false")
    monkeypatch.setenv("ARGO_TOKEN", "Bearer secret-token")
    monkeypatch.setenv("ARGO_NAMESPACE", NAMESPACE)
    return connect.workflows(None, None)


@pytest.fixture(params=["kube", "server"])
def workflows(request: pytest.FixtureRequest) -> Workflows:
    found: Workflows = request.getfixturevalue(request.param)
    return found


def test_a_name_can_be_taken_once(workflows: Workflows, api: FakeApi) -> None:
    assert workflows.submit(TOY)
    assert not workflows.submit(TOY)
    made = api.objects["workflows", "toy-1"]
    assert made["spec"] == {"workflowTemplateRef": {"name": "toy"}, "arguments": {"parameters": [{"name": "revision", "value": "abc"}]}}
    assert made["metadata"]["namespace"] == NAMESPACE
    assert made["metadata"]["labels"] == {"countersign/pipeline": "toy"}


@pytest.mark.parametrize(("account", "noted"), [("vera@bank", "vera@bank"), (None, None)])
def test_who_submits_is_who_the_api_server_says(kube: Kube, api: FakeApi, account: str | None, noted: str | None) -> None:
    api.account = account
    kube.submit(TOY)
    assert api.objects["workflows", "toy-1"]["metadata"]["annotations"].get("countersign/submitter") == noted


@pytest.mark.parametrize(
    ("said", "noted"),
    [
        ({"subject": "a1b2", "serviceAccountName": "vera", "serviceAccountNamespace": "lab"}, "system:serviceaccount:lab:vera"),
        ({"subject": "a1b2"}, None),
        ({}, None),
    ],
    ids=["an account", "no account of one's own", "nothing said"],
)
def test_who_submits_through_the_argo_server(server: Workflows, api: FakeApi, said: dict[str, str], noted: str | None) -> None:
    api.user_info = said
    server.submit(TOY)
    assert api.objects["workflows", "toy-1"]["metadata"]["annotations"].get("countersign/submitter") == noted


def test_what_is_there_is_got_and_listed(workflows: Workflows, api: FakeApi) -> None:
    assert workflows.get("toy-1") is None
    workflows.submit(TOY)
    found = workflows.get("toy-1")
    assert found is not None
    assert (found.name, found.template, found.phase, found.uid) == ("toy-1", "toy", Phase.PENDING, "uid-of-toy-1")
    api.change("toy-1", {"phase": "Running"})
    assert [(w.name, w.phase) for w in workflows.list({"countersign/pipeline": "toy"})] == [("toy-1", Phase.RUNNING)]
    assert workflows.list({"countersign/pipeline": "other"}) == []


def test_templates_are_read(workflows: Workflows, api: FakeApi) -> None:
    assert workflows.template("toy") is None
    api.template("toy", ["pick", "join"])
    found = workflows.template("toy")
    assert found is not None
    assert found.templates == {"pick", "join", "plan", "seal", "pipeline"}
    assert "overrides" in found.defaults


def test_changes_are_told_in_order_and_a_deletion_is_the_last(workflows: Workflows, api: FakeApi) -> None:
    workflows.submit(TOY)
    now = workflows.get("toy-1")
    assert now is not None
    api.change("toy-1", {"phase": "Running"})  # between looking and watching: it must not be missed
    changes = workflows.watch(now)
    assert _phase(next(changes)) is Phase.RUNNING
    api.change("toy-1", {"phase": "Succeeded"})
    assert _phase(next(changes)) is Phase.SUCCEEDED
    api.remove("toy-1")
    assert list(changes) == [None]


def test_a_connection_that_is_cut_in_the_middle_is_temporary(workflows: Workflows, api: FakeApi) -> None:
    workflows.submit(TOY)
    now = workflows.get("toy-1")
    assert now is not None
    changes = workflows.watch(now)
    api.change("toy-1", {"phase": "Running"})
    assert _phase(next(changes)) is Phase.RUNNING
    api.cut()
    with pytest.raises(Temporary, match="cannot be reached"):
        next(changes)


def _phase(found: Progress | None) -> Phase | None:
    return found.phase if found else None


NO = json.dumps({"kind": "Status", "reason": "Forbidden", "message": "workflows is forbidden: User me cannot create", "details": {}})


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((403, NO), BadInput, "forbidden: User me"),
        ((401, '{"kind":"Status","message":"Unauthorized"}'), BadInput, "Unauthorized"),
        ((500, '{"kind":"Status","message":"etcdserver: request timed out"}'), Temporary, "etcdserver: request timed out"),
        ((503, "upstream connect error"), Temporary, "503"),
        ((429, '{"kind":"Status","message":"too many requests"}'), Temporary, "too many requests"),
        ((422, '{"kind":"Status","message":"spec.x: Invalid value"}'), BadInput, "Invalid value"),
        ((0, ""), Temporary, "cannot be reached"),
    ],
    ids=lambda x: str(x[0]) if isinstance(x, tuple) else None,
)
def test_what_an_api_can_answer(
    workflows: Workflows, api: FakeApi, answer: tuple[int, str], kind: type[CountersignError], words: str
) -> None:
    api.always = answer
    for ask in (lambda: workflows.get("toy-1"), lambda: workflows.submit(TOY), lambda: workflows.list({}), lambda: workflows.template("x")):
        with pytest.raises(kind) as found:
            ask()
        assert words.lower() in str(found.value).lower() or words == "503"
        assert found.value.hint or kind is BadInput
        assert "secret-token" not in str(found.value)


def test_a_cluster_without_argo(kube: Kube, api: FakeApi) -> None:
    api.always = (404, "404 page not found\n")
    with pytest.raises(BadInput, match="Argo Workflows is not installed"):
        kube.get("toy-1")
    with pytest.raises(BadInput, match="Argo Workflows is not installed"):
        kube.submit(TOY)


def test_a_namespace_that_is_not_there(kube: Kube, api: FakeApi) -> None:
    missing = {"kind": "Status", "reason": "NotFound", "message": 'namespaces "lab" not found', "details": {"name": "lab"}}
    api.always = (404, json.dumps(missing))
    with pytest.raises(BadInput, match='namespaces "lab" not found') as found:
        kube.submit(TOY)
    assert "--namespace" in found.value.hint


def test_a_watch_that_is_too_old_ends_so_that_the_caller_looks_anew(kube: Kube, api: FakeApi) -> None:
    kube.submit(TOY)
    now = kube.get("toy-1")
    assert now is not None
    api.failing.append((410, '{"kind":"Status","reason":"Expired","message":"too old resource version"}'))
    assert list(kube.watch(now)) == []


def test_the_config_map_is_read_and_set(kube: Kube, api: FakeApi) -> None:
    for ask in (kube.configuration, lambda: kube.configure({"code": "x"})):
        with pytest.raises(BadInput, match="ConfigMap countersign is missing"):
            ask()
    api.config(store="s3://bank", code="old")
    kube.configure({"code": "new"})
    assert kube.configuration() == {"store": "s3://bank", "code": "new"}
    api.always = (403, NO)
    assert kube.configuration() is None


def test_annotations_are_added(kube: Kube, api: FakeApi) -> None:
    kube.submit(TOY)
    kube.annotate("toy-1", {"countersign/run": "r"})
    kube.annotate("toy-1", {"countersign/root": "s"})
    noted = api.objects["workflows", "toy-1"]["metadata"]["annotations"]
    assert noted == {"countersign/run": "r", "countersign/root": "s", "countersign/submitter": "me@bank"}


def test_manifests_are_applied_whole(kube: Kube, api: FakeApi) -> None:
    manifest = {"apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTemplate", "metadata": {"name": "toy"}, "spec": {"entrypoint": "x"}}
    assert kube.apply(manifest) == "WorkflowTemplate/toy"
    assert api.objects["workflowtemplates", "toy"]["spec"] == {"entrypoint": "x"}
    with pytest.raises(BadInput, match="cannot apply a Secret"):
        kube.apply({"kind": "Secret", "metadata": {"name": "x"}})


@pytest.mark.usefixtures("kube")
def test_a_context_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(BadInput, match="no context prod; expected one of: fake"):
        connect.workflows("prod", None)


def test_a_namespace_can_be_named(kube: Kube) -> None:
    assert kube.namespace == NAMESPACE
    assert connect.workflows(None, "other").namespace == "other"


@pytest.mark.usefixtures("server")
def test_one_way_at_a_time() -> None:
    with pytest.raises(BadInput, match="and an Argo Server, too"):
        connect.workflows("fake", None)


@pytest.mark.parametrize("address", ["http://argo:2746", "https://argo"])
def test_an_argo_server_has_no_scheme(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("ARGO_SERVER", address)
    with pytest.raises(BadInput, match="ARGO_SERVER: is an address with a scheme; expected host:port"):
        connect.workflows(None, None)


def test_tls_where_there_is_none_is_explained(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGO_SERVER", api.url.removeprefix("http://"))
    monkeypatch.delenv("ARGO_SECURE", raising=False)
    with pytest.raises(BadInput, match="no TLS connection") as found:
        connect.workflows(None, "lab").get("toy-1")
    assert "ARGO_SECURE=false" in found.value.hint
