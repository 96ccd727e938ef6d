"""From Argo's nodes to tasks and errors, and following a workflow through lost connections."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from workflows.cluster import reading
from workflows.cluster.following import Away, failed_attempts, failure_of, follow, pipeline_of, run_of, said, tasks_of
from workflows.cluster.interface import Phase, Progress
from workflows.declare import Pipeline
from workflows.errors import BadInput, CountersignError, GateRefused, NotVerified, Temporary

START = "2026-11-24T10:00:00Z"
END = "2026-11-24T10:00:05Z"


def node(name: str, phase: str, kind: str = "Pod", code: int | None = None, **more: Any) -> dict[str, Any]:
    outputs = {**({"exitCode": str(code)} if code is not None else {}), **more.pop("outputs", {})}
    times = {"startedAt": START, "finishedAt": END if Phase(phase).ended else None}
    return {"id": f"wf-{name}", "displayName": name, "type": kind, "phase": phase, "outputs": outputs, **times, **more}


def workflow(*nodes: dict[str, Any], phase: str = "Running", message: str = "", **meta: Any) -> Progress:
    status = {"phase": phase, "message": message, "nodes": {n["id"]: n for n in nodes}}
    spec = {"workflowTemplateRef": {"name": "toy"}}
    return reading.progress(
        {"metadata": {"name": "wf", "namespace": "lab", "resourceVersion": "7", **meta}, "spec": spec, "status": status}
    )


REFUSED = "main: Error (exit code 3): refused: toy.join: gate enough says no: total 60 (>= 100)"


def test_groups_are_no_tasks_and_attempts_are_one() -> None:
    found = tasks_of(
        workflow(
            node("wf", "Running", "DAG"),
            node("plan", "Succeeded"),
            node("work", "Running", "TaskGroup"),
            node("work(0:a)", "Running", "Retry", children=["wf-work(0:a)(0)", "wf-work(0:a)(1)"]),
            node("work(0:a)(0)", "Failed", code=75, message="main: Error (exit code 75): error: the store is away"),
            node("work(0:a)(1)", "Running"),
            node("join", "Pending", message="Unschedulable: 0/1 nodes are available"),
        )
    )
    assert [(t.name, t.state, t.attempts) for t in found] == [("join", "waiting", 1), ("plan", "done", 1), ("work(0:a)", "running", 2)]
    assert found[0].message == "Unschedulable: 0/1 nodes are available"


def test_an_attempt_that_failed_is_told_once_there_is_another() -> None:
    failed = node("work(0)", "Failed", code=75, message="error: the store is away")
    assert failed_attempts(workflow(node("work", "Running", "Retry", children=["wf-work(0)"]), failed)) == []
    both = node("work", "Running", "Retry", children=["wf-work(0)", "wf-work(1)"])
    assert failed_attempts(workflow(both, failed, node("work(1)", "Running"))) == [("work(0)", "the store is away")]


def test_the_exit_handler_has_a_name_that_means_something() -> None:
    assert [t.name for t in tasks_of(workflow(node("wf.onExit", "Running")))] == ["seal"]


def test_a_message_is_read_without_what_programs_put_before_it() -> None:
    assert said(REFUSED) == "toy.join: gate enough says no: total 60 (>= 100)"
    assert said("main: Error (exit code 2): error: a\nerror: b\nhint: c") == "a; b; c"
    assert said("OOMKilled (exit code 137)") == "OOMKilled (exit code 137)"
    assert said("") == ""


def test_large_workflows_have_their_nodes_packed() -> None:
    nodes = {"wf-plan": node("plan", "Succeeded")}
    status = {"phase": "Running", "compressedNodes": base64.b64encode(gzip.compress(json.dumps(nodes).encode())).decode()}
    progress = reading.progress({"metadata": {"name": "wf"}, "status": status})
    assert [t.name for t in tasks_of(progress)] == ["plan"]


def test_a_workflow_that_nobody_looked_at_yet_is_pending() -> None:
    progress = reading.progress({"metadata": {"name": "wf"}, "spec": {}})
    assert (progress.phase, progress.nodes, progress.template) == (Phase.PENDING, (), "")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *((k.exit_code, k) for k in (GateRefused, BadInput, NotVerified, Temporary, CountersignError)),
        *((code, Temporary) for code in (137, 143, None)),
        *((code, CountersignError) for code in (64, 126, 255)),
    ],
)
def test_the_exit_code_of_the_task_that_failed_is_the_workflows(code: int | None, kind: type[CountersignError]) -> None:
    error = failure_of(workflow(node("plan", "Succeeded"), node("join", "Failed", code=code, message="why"), phase="Failed"))
    assert type(error) is kind
    assert str(error) == "wf/join: why"


def test_a_temporary_failure_does_not_hide_another() -> None:
    late = node("b", "Failed", code=3, message=REFUSED)
    late["finishedAt"] = "2026-11-24T10:00:09Z"
    error = failure_of(workflow(node("a", "Failed", code=75), late, phase="Failed"))
    assert type(error) is GateRefused
    assert "gate enough says no" in str(error)


def test_a_workflow_that_went_well_or_goes_on_has_no_failure() -> None:
    assert failure_of(workflow(node("a", "Succeeded"), phase="Succeeded")) is None
    assert failure_of(workflow(node("a", "Failed", code=3), phase="Running")) is None


def test_a_workflow_that_argo_would_not_have() -> None:
    error = failure_of(workflow(phase="Error", message="invalid spec: templates.pipeline: nonsense"))
    assert type(error) is BadInput
    assert "publish --templates" in error.hint


def test_a_task_that_argo_could_not_start() -> None:
    error = failure_of(workflow(node("join", "Error", "Skipped", message="failed to resolve {{x}}"), phase="Error"))
    assert type(error) is CountersignError


def test_a_workflow_that_was_stopped_before_it_began() -> None:
    error = failure_of(workflow(phase="Failed", message="Stopped with strategy 'Terminate'"))
    assert type(error) is Temporary


def test_the_run_is_what_the_exit_handler_noted_or_what_was_planned() -> None:
    planned = node("plan", "Succeeded", outputs={"parameters": [{"name": "run", "value": "toy-0123456789ab"}]})
    assert run_of(workflow(planned)) == "toy-0123456789ab"
    assert run_of(workflow(planned, annotations={"countersign/run": "toy-0123456789ab-2"})) == "toy-0123456789ab-2"
    assert run_of(workflow(node("plan", "Failed", code=2))) is None


def test_a_workflow_of_someone_else() -> None:
    with pytest.raises(BadInput, match="expected one from the template other, got toy"):
        pipeline_of(workflow(), [Pipeline(name="other", steps=())])


class Script:
    """A port that answers as written down: a state, a list of later states, or an error."""

    namespace, place = "lab", "namespace lab"

    def __init__(self, *gets: Progress | Exception | None, watches: list[list[Progress | Exception | None]]) -> None:
        self.gets, self.watches = list(gets), watches
        self.now = 0.0
        self.slept: list[float] = []

    def get(self, _: str) -> Progress | None:
        answer = self.gets.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def watch(self, _: Progress) -> Iterator[Progress | None]:
        for answer in self.watches.pop(0):
            if isinstance(answer, Exception):
                raise answer
            yield answer

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def follow(self, patience: float = 60.0) -> list[Progress | Away]:
        return list(follow(self, "wf", patience=patience, clock=lambda: self.now, sleep=self.sleep))  # type: ignore[arg-type]


RUNNING, DONE = workflow(), workflow(phase="Succeeded")
AWAY = Temporary("the cluster cannot be reached: refused")


def test_following_ends_with_the_workflow() -> None:
    assert Script(RUNNING, watches=[[RUNNING, DONE]]).follow() == [RUNNING, RUNNING, DONE]
    assert Script(DONE, watches=[]).follow() == [DONE]


def test_following_goes_on_when_a_watch_ends() -> None:
    script = Script(RUNNING, RUNNING, watches=[[], [DONE]])
    assert script.follow() == [RUNNING, RUNNING, DONE]
    assert script.slept  # a server that ends each watch at once is not asked without pause


def test_following_survives_a_cluster_that_is_away() -> None:
    script = Script(RUNNING, AWAY, AWAY, RUNNING, watches=[[AWAY], [DONE]])
    found = script.follow()
    assert [type(x).__name__ for x in found] == ["Progress", "Away", "Away", "Away", "Progress", "Progress"]
    assert found[3].seconds > found[2].seconds > found[1].seconds == 0.0  # type: ignore[union-attr]
    assert found[-1] == DONE


def test_patience_has_an_end_and_begins_anew_after_each_answer() -> None:
    with pytest.raises(Temporary, match="cannot be reached"):
        Script(RUNNING, *[AWAY] * 20, watches=[[AWAY]]).follow(patience=30.0)
    states: list[Progress | Exception | None] = [AWAY, AWAY, AWAY, AWAY, RUNNING]
    assert Script(*states * 4, DONE, watches=[[]] * 4).follow(patience=16.0)[-1] == DONE


@pytest.mark.parametrize("script", [Script(RUNNING, watches=[[None]]), Script(RUNNING, None, watches=[[]]), Script(None, watches=[])])
def test_a_workflow_that_was_deleted(script: Script) -> None:
    with pytest.raises(Temporary, match="was deleted"):
        script.follow()


def test_clocks_may_differ() -> None:
    task = tasks_of(workflow(node("a", "Running")))[0]
    assert task.seconds(datetime(2026, 11, 24, 9, tzinfo=UTC)) == 0.0
    assert task.seconds(datetime(2026, 11, 24, 10, 0, 3, tzinfo=UTC)) == 3.0
