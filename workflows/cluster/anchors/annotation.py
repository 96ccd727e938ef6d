"""Roots in the annotations of the workflows that made the runs: noted by their exit handler, kept by Kubernetes.

They are found by the label `countersign/run`. A workflow that was deleted takes its note along, unless Argo's archive has it
and the Argo Server is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from workflows.cluster.anchors.interface import ANNOTATION, unreached
from workflows.cluster.interface import ROOT, RUN, Workflows, run_label
from workflows.errors import CountersignError
from workflows.prove.anchor import Looked, Noted, Unreached

SECONDS = 10.0  # whoever verifies does not wait for a cluster that is away


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """The workflows of one namespace. `connect` may fail: then so does looking, and says why."""

    connect: Callable[[], Workflows]
    name: str = ANNOTATION
    seconds: float = SECONDS

    def look(self, run: str) -> Looked:
        answer: Future[Looked] = Future()
        try:
            workflows = self.connect()  # reads files, and imports much; nobody is asked yet
            # A thread that nobody waits for at the end: a connection to nowhere may hang for longer than anyone has patience.
            threading.Thread(target=self._ask, args=(workflows, run, answer), daemon=True).start()
            return answer.result(self.seconds)
        except TimeoutError:
            return Unreached(why=f"the cluster did not answer within {self.seconds:g} s")
        except CountersignError as error:
            return unreached(error)

    def _ask(self, workflows: Workflows, run: str, answer: Future[Looked]) -> None:
        try:
            answer.set_result(self._noted(workflows, run))
        except Exception as error:  # noqa: BLE001  # raised again where it was asked for
            answer.set_exception(error)

    def _noted(self, workflows: Workflows, run: str) -> Looked:
        listed = workflows.list({RUN: run_label(run)})
        found = [p for w in listed if (p := workflows.get(w.name)) and p.annotations.get(RUN) == run]
        return tuple(
            Noted(root=p.annotations.get(ROOT) or "no root at all", where=f"workflow {p.namespace or workflows.namespace}/{p.name}")
            for p in found
        )
