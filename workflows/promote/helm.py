"""The port `Deployer` on Helm: the program is called, never a library, and told everything each time.

A revision is whole or goes back to the one before it. What a killed command left (`pending-...`) is found and put back. With a
canary, Helm only brings the change to the cluster; Argo Rollouts moves the traffic and judges it, and this waits for what it says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.errors import BadInput, CountersignError, Problem, Temporary
from workflows.names import argo_name
from workflows.promote.deployer import Installed, NotServed
from workflows.prove import canonical, digest
from workflows.prove.release import Deployed, State
from workflows.run import parameters

CHART = Path("infra/charts/model-server")
CHART_VARIABLE = "COUNTERSIGN_CHART"
APPROVED = "countersign-approved"
"""The ConfigMap that lists what may serve. Only the promoter's account may write it."""
ADMITTED = 3  # releases of a pipeline that may have pods at one time: the one that serves, the one on its way, one taken back
KEPT = 20  # revisions: how far back `helm history` tells
HEALTHY = "Healthy"
PENDING_ROLLBACK = "pending-rollback"
RESERVE = 10 * 60.0  # seconds kept for the way back: a canary that used all of its time is still taken back; half, where there is less
EVERY = 2.0  # seconds between two looks at a canary
AWAY = ("connection refused", "i/o timeout", "no route to host", "TLS handshake timeout", "context deadline exceeded", "etcdserver")
BUSY = "another operation (install/upgrade/rollback) is in progress"
NOT_READY = " not ready. status: "  # Helm on what it waited for
NONE = "not found"


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a program answered."""

    code: int
    out: str
    err: str


Run = Callable[[Sequence[str]], Said]


@dataclass(kw_only=True)
class Helm:
    """One pipeline's server in one namespace."""

    release: str
    namespace: str
    chart: Path
    minutes: int
    """How long all of one `deploy` or `heal` may take, the way back included: after that, others take the release for dead.

    Helm holds each single thing that it waits for to the time that it is given, so one with several hooks may be over it.
    """
    context: str | None = None
    run: Run | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._start()

    @classmethod
    def found(cls, root: Path, pipeline: str, *, namespace: str, context: str | None, minutes: int) -> Helm:
        """With the program and the chart that are at hand; `BadInput` says what is missing."""
        for program in ("helm", "kubectl"):
            if not shutil.which(program):
                raise BadInput(Problem(what=f"{program} is missing", where="PATH"), hint="make cluster-up builds it, or install it")
        named = os.environ.get(CHART_VARIABLE)
        chart = Path(named) if named else root / CHART
        if not (chart / "Chart.yaml").is_file():
            raise BadInput(Problem(what="no chart", where=str(chart)), hint=f"{CHART_VARIABLE} names another folder")
        return cls(release=argo_name(pipeline), namespace=namespace, chart=chart, minutes=minutes, context=context)

    def heal(self, release: str) -> str:
        self._start()
        status = self._status()
        if status == "deployed":
            return self._heal_arrived(release)
        if status != "failed" and not (status or "").startswith("pending-"):
            return ""
        if status == PENDING_ROLLBACK or self._leads_back(release):
            # Until a rollback ends, what it leads away from is listed as deployed, so the newest that served is the wrong one. The
            # pending revision holds what it leads to.
            self._back(self._revision())
            return f"Helm was at {status}: what it was going back to was brought again"
        back = self._revision_before()
        self._back(back)
        if back is None:
            return f"Helm was at {status}, with nothing before it: it was taken away"
        return f"Helm was at {status}: it went back to revision {back}"

    def _leads_back(self, release: str) -> bool:
        """Whether the newest revision is the way back from this release, to what served before."""
        values = self._values(self._revision())
        return bool(values.get("rollback")) and _release_in(values) != release

    def _heal_arrived(self, release: str) -> str:
        """What Helm brought whole goes on when whoever began it died: its canary is seen to its end, and then it is tested."""
        revision = self._revision()
        values = self._values(revision)
        if _release_in(values) != release:
            return ""
        deployed, before = self._deployed(revision, values), self._revision_that("superseded")
        on_its_way = _has_canary(values) and self._rollout()["phase"] != HEALTHY
        if on_its_way:
            self._follow_canary(values, deployed, before)
        self._test(deployed, before)
        return f"{_what_goes(values, 'its')} went on by itself" if on_its_way else ""

    def installed(self) -> Installed | None:
        if self._status() != "deployed":
            return None
        revision = self._revision()
        values = self._values(revision)
        if _has_canary(values) and self._rollout()["phase"] != HEALTHY:
            return None
        return Installed(release=_release_in(values), deployed=self._deployed(revision, values))

    def deploy(self, values: Mapping[str, Any]) -> Deployed:
        self._start()
        before = self._revision_before()
        values = self._complete(values)
        self._admit(str(values["release"]), None if before is None else self._values(before).get("release"))
        # Where Helm goes back by itself, it takes as long again for that.
        said = self._upgrade(values, self._time if _has_canary(values) else self._time_back / 2)
        if said.code:
            error = self._explained(said, "upgrade")
            if isinstance(error, Temporary):
                raise error
            wrong = self._put_back(before)
            why = f"helm: {_last_line(said.err)}{_still(wrong)}"
            raise NotServed(why, state=State.FAILED, hint="" if wrong else "what served before serves on")
        deployed = self._deployed(self._revision(), values)
        if _has_canary(values):
            self._follow_canary(values, deployed, before)
        self._test(deployed, before)
        return deployed

    def _complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """With the chart's own values for all that is not given: what is recorded depends on no default that changes later."""
        path = self.chart / "values.yaml"
        return dict(_over(parameters.read_yaml(path, str(path)), values))

    def _admit(self, release: str, serving: str | None) -> None:
        """Let this release into the namespace: the cluster's admission policy compares pods with what stands in this list.

        What serves stays in it, however many after it came to nothing: its next pod, and the way back, are compared as well. Where
        somebody took it out, it is put back.
        """
        name, said = "configmap", self._try_kubectl("get", "configmap", APPROVED, "-o", "json")
        key = f"{self.release}.{json.loads(release)['release']['sequence']}"
        let_in = {**self._listed_as(serving), key: release}
        if said.code and "NotFound" in said.err:
            self._kubectl("create", name, APPROVED, *(f"--from-literal={k}={text}" for k, text in let_in.items()))
            return
        if said.code:
            raise self._explained(said, "kubectl get")
        listed = json.loads(said.out).get("data") or {}
        mine = sorted((k for k in listed if k.startswith(f"{self.release}.")), key=_sequence)
        if already := {k for k in mine if listed[k] == serving}:
            let_in = {key: release}
        stay = {*let_in, *already}
        others = [k for k in mine if k not in stay]
        gone = others[: max(0, len(stay) + len(others) - ADMITTED)]
        change = {"data": {**let_in, **dict.fromkeys(gone)}}
        self._kubectl("patch", name, APPROVED, "--type=merge", "-p", json.dumps(change))

    def _listed_as(self, serving: str | None) -> dict[str, str]:
        """What serves, under its own number; nothing where it is no release of this pipeline, as where somebody installed it by hand."""
        try:
            told = json.loads(serving or "")
            mine, sequence = argo_name(told["pipeline"]) == self.release, int(told["release"]["sequence"])
        except (AttributeError, KeyError, TypeError, ValueError):
            return {}
        return {f"{self.release}.{sequence}": str(serving)} if mine else {}

    def _upgrade(self, values: Mapping[str, Any], seconds: float) -> Said:
        # A canary takes as long as its analysis: Helm would wait for all of it, and take back by itself what analysis keeps.
        how = ["--wait=hookOnly"] if _has_canary(values) else ["--rollback-on-failure"]
        with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="values-") as file:
            file.write(canonical.encode(dict(values)).decode())
            file.flush()
            words = ["upgrade", "--install", self.release, str(self.chart), "--values", file.name, "--reset-values"]
            return self._try(*words, *how, "--timeout", _timeout(seconds), "--history-max", str(KEPT))

    def _follow_canary(self, values: Mapping[str, Any], deployed: Deployed, before: int | None) -> None:
        """Until analysis has said yes to all of it, or no."""
        if why := self._why_not_healthy(self._time):
            self._back(before)
            raise NotServed(f"{_what_goes(values, 'the')} was taken back: {why}", state=State.ABORTED, deployed=deployed)

    def _why_not_healthy(self, seconds: float) -> str:
        """Once Argo Rollouts has come to an end with it, or its time is over; empty where all of it is healthy."""
        until = self.clock() + seconds
        while True:
            status = self._rollout()
            if status["phase"] == HEALTHY:
                return ""
            if status["aborted"] or status["phase"] == "Degraded" or self.clock() >= until:
                return str(status["message"] or status["phase"] or "Argo Rollouts says nothing of it")
            time.sleep(EVERY)

    def _rollout(self) -> dict[str, Any]:
        """What Argo Rollouts says of it, once it has seen what Helm changed."""
        found = json.loads(self._kubectl("get", "rollout", self.release, "-o", "json").out)
        status = found.get("status", {})
        seen = str(status.get("observedGeneration", "")) == str(found["metadata"]["generation"])
        phase = status.get("phase", "") if seen else ""
        return {"phase": phase, "message": status.get("message", ""), "aborted": bool(status.get("abort")) and seen}

    def _test(self, deployed: Deployed, before: int | None) -> None:
        said = self._try("test", self.release, "--timeout", _timeout(self._time), "--logs")
        if said.code:
            wrong = self._back_from_whole(before)
            raise NotServed(f"helm test: {_last_line(said.err)}{_still(wrong)}", state=State.FAILED, deployed=deployed)

    def _back_from_whole(self, revision: int | None) -> str:
        """Back from what serves everybody; why what served before is not healthy again, or nothing.

        To Argo Rollouts a canary that was let through is what is known to be good, and what served before would be the next canary.
        So it goes back as a rollback does, without steps.
        """
        values = {} if revision is None else self._values(revision)
        if not _has_canary(values):
            return self._why_not_back(revision)
        said = self._upgrade({**values, "rollback": True}, self._time_back)
        if said.code:
            explained = self._explained(said, "upgrade")
            if isinstance(explained, Temporary):
                raise explained
            return _last_line(said.err)
        return self._why_not_healthy(self._time_back)

    def _put_back(self, before: int | None) -> str:
        """What a refused upgrade left, back to what served before; why that does not come, or nothing.

        Helm goes back by itself, waits, and calls its way back failed over one look at a Deployment that has not begun to recover:
        to Kubernetes that is past its deadline until it has. A canary's upgrade does not go back by itself.
        """
        return self._why_not_back(before) if self._status() == "failed" else ""

    def _why_not_back(self, revision: int | None) -> str:
        try:
            self._back(revision)
        except BadInput as error:
            return str(error.problems[0].what)
        return ""

    def _back(self, revision: int | None) -> None:
        if revision is None:
            self._ask("uninstall", self.release, "--ignore-not-found", "--wait", "--timeout", _timeout(self._time_back))
        else:
            self._ask("rollback", self.release, str(revision), "--timeout", _timeout(self._time_back), "--history-max", str(KEPT))

    def _deployed(self, revision: int, values: Mapping[str, Any]) -> Deployed:
        sha = digest.of_bytes(canonical.encode(dict(values))).sha256
        return Deployed(release=self.release, namespace=self.namespace, revision=revision, values=sha)

    def _status(self) -> str | None:
        said = self._try("status", self.release, "-o", "json")
        if said.code and NONE in said.err:
            return None
        if said.code:
            raise self._explained(said, "status")
        return str(json.loads(said.out)["info"]["status"])

    def _revision(self) -> int:
        return int(json.loads(self._ask("status", self.release, "-o", "json").out)["version"])

    def _revisions(self) -> list[dict[str, Any]]:
        said = self._try("history", self.release, "-o", "json", "--max", str(KEPT))
        if said.code and NONE in said.err:
            return []
        if said.code:
            raise self._explained(said, "history")
        return list(json.loads(said.out))

    def _revision_that(self, *states: str) -> int | None:
        """The newest revision in one of these states; None where there is none."""
        return max((int(r["revision"]) for r in self._revisions() if r["status"] in states), default=None)

    def _revision_before(self) -> int | None:
        """What serves, whatever began after it; None where nothing ever did.

        What Helm could not go back from may be listed as superseded, like what served once. So that comes second.
        """
        return self._revision_that("deployed") or self._revision_that("superseded")

    def _values(self, revision: int) -> dict[str, Any]:
        return dict(json.loads(self._ask("get", "values", self.release, "--revision", str(revision), "-o", "json").out) or {})

    def _start(self) -> None:
        self._ends = self.clock() + self.minutes * 60

    @property
    def _time(self) -> float:
        """Seconds that are left to bring something, without what is kept for the way back."""
        return max(self._time_back - min(RESERVE, self.minutes * 60 / 2), 0.0)

    @property
    def _time_back(self) -> float:
        """Seconds that are left of all of it."""
        return max(self._ends - self.clock(), 0.0)

    def _where(self, option: str) -> list[str]:
        return ["--namespace", self.namespace, *([option, self.context] if self.context else [])]

    def _try(self, *words: str) -> Said:
        return (self.run or _call)(["helm", *words, *self._where("--kube-context")])

    def _ask(self, *words: str) -> Said:
        said = self._try(*words)
        if said.code:
            raise self._explained(said, words[0])
        return said

    def _try_kubectl(self, *words: str) -> Said:
        return (self.run or _call)(["kubectl", *words, *self._where("--context")])

    def _kubectl(self, *words: str) -> Said:
        said = self._try_kubectl(*words)
        if said.code:
            raise self._explained(said, f"kubectl {words[0]}")
        return said

    def _explained(self, said: Said, what: str) -> CountersignError:
        problem = Problem(what=_last_line(said.err) or f"exit code {said.code}", where=f"helm {what} of {self.namespace}/{self.release}")
        if BUSY in said.err:
            return Temporary(problem, hint="somebody is at it, or died at it: the same command again puts it right after its time")
        if NOT_READY not in said.err and any(word in said.err for word in AWAY):
            return Temporary(problem, hint="the cluster does not answer: try again")
        return BadInput(problem)


def _timeout(seconds: float) -> str:
    """As Helm wants it, to which 0 is no limit at all."""
    return f"{max(int(seconds), 1)}s"


def _sequence(key: str) -> int:
    number = key.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def _over(own: Any, given: Any) -> Any:
    """As Helm lays values over a chart's: mappings key by key, anything else as a whole. Numbers as Helm gives them back."""
    if isinstance(own, Mapping) and isinstance(given, Mapping):
        return {k: _over(own.get(k), given[k]) if k in given else _over(None, own[k]) for k in [*own, *(k for k in given if k not in own)]}
    if isinstance(given, Mapping):
        return {k: _over(None, v) for k, v in given.items()}
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _has_canary(values: Mapping[str, Any]) -> bool:
    return bool(values.get("canary", {}).get("enabled"))


def _what_goes(values: Mapping[str, Any], whose: str) -> str:
    """What is followed, in words: a rollback goes without steps, and has no canary."""
    return "it" if values.get("rollback") else f"{whose} canary"


def _release_in(values: Mapping[str, Any]) -> str | None:
    """sha256 of the release that an installation's values name; None where they name none, as where somebody else installed it."""
    try:
        return str(json.loads(values["release"])["release"]["sha256"])
    except (KeyError, TypeError, ValueError):
        return None


def _call(words: Sequence[str]) -> Said:
    # Its notes in ConfigMaps: whoever promotes needs no right to read Secrets.
    env = {**os.environ, "HELM_DRIVER": "configmap"}
    done = subprocess.run(list(words), capture_output=True, text=True, check=False, env=env)  # noqa: S603  # our own words
    return Said(code=done.returncode, out=done.stdout, err=done.stderr)


def _still(wrong: str) -> str:
    return f"; what served before does not come back: {wrong}" if wrong else ""


def _last_line(text: str) -> str:
    """What is wrong. Where Helm waited in vain, it says so after what it waited for."""
    lines = [line.removeprefix("Error: ").strip() for line in reversed(text.splitlines()) if line.strip()]
    return next((line for line in lines if NOT_READY in line), lines[0] if lines else "")
