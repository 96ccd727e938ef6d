"""Which anchors can be asked from here: the one place that chooses."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from workflows.cluster.anchors.annotation import Annotations
from workflows.cluster.anchors.git_note import GitNotes
from workflows.cluster.anchors.interface import ANNOTATION, OBJECT_LOCK, Anchor, NotAsked
from workflows.cluster.anchors.object_lock import LockedObjects
from workflows.cluster.interface import Workflows
from workflows.errors import BadInput, Problem
from workflows.prove.anchor import Unreached, Verdict, judge
from workflows.run.store.interface import Store
from workflows.run.store.s3 import S3Store

RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,199}")
KUBECONFIG = Path("~/.kube/config")


def anchors(here: Path, store: Store | None, *, namespace: str | None, context: str | None, bundle: bool = False) -> list[Anchor]:
    """Every anchor, those that there is no way to from `here` as well, with the reason. `store` is None where none is named.

    A cluster is asked for runs in a store that clusters use, or where one is named: nobody expects that a look at a
    bundle, or at the runs of a laptop, asks whatever cluster the laptop was last used with.
    """
    named = bool(namespace or context) or (isinstance(store, S3Store) and not bundle)
    annotations = Annotations(connect=lambda: _connect(context, namespace))
    no_cluster = NotAsked(name=ANNOTATION, why="no cluster is named: --namespace, --context")
    return [GitNotes(root=here), annotations if named else no_cluster, locked_objects(store)]


def verdicts(known: Sequence[Anchor], run: str, root: str | None) -> tuple[Verdict, ...]:
    """What each anchor says of a run."""
    if not RUN_ID.fullmatch(run):
        return tuple(judge(a.name, Unreached(why="not the id of a run"), root) for a in known)
    return tuple(judge(a.name, a.look(run), root) for a in known)


def locked_objects(store: Store | None) -> LockedObjects | NotAsked:
    """The locked objects of a store, where it can have any."""
    if isinstance(store, S3Store):
        return LockedObjects(store=store)
    return NotAsked(name=OBJECT_LOCK, why="no store in S3 is named" if store is None else "the store is a folder, which locks nothing")


def _connect(context: str | None, namespace: str | None) -> Workflows:
    named = os.environ.get("KUBECONFIG", "")
    if not (named or os.environ.get("ARGO_SERVER") or os.environ.get("KUBERNETES_SERVICE_HOST") or KUBECONFIG.expanduser().is_file()):
        raise BadInput(Problem(what="no cluster to talk to", where="KUBECONFIG, ARGO_SERVER"))
    if importlib.util.find_spec("kubernetes") is None:
        raise BadInput(Problem(what="the package kubernetes is not installed", where="this environment"))
    from workflows.cluster import connect

    return connect.workflows(context, namespace)
