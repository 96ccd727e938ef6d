"""People with keys, a policy of three environments, and a run to be judged; all in memory."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.prove import chain
from workflows.promote import approving
from workflows.promote.deployer import Installed, NotServed
from workflows.promote.evidence import Evidence, Signed
from workflows.promote.judging import Case, Judgement, judge
from workflows.promote.policy import Policies, parse
from workflows.promote.promoting import Desk
from workflows.prove import canonical, digest
from workflows.prove.approval import Approval, encode_approval
from workflows.prove.record import Outcome
from workflows.prove.release import Deployed, State
from workflows.prove.signature import Signer
from workflows.run import files
from workflows.run.store.local import LocalStore

WHY = "so that a test can see it"
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
PEOPLE = ("pipeline", "promoter", "vera", "victor", "olga", "mallory")
PRIVATE = {name: Ed25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32) for i, name in enumerate(PEOPLE)}
PRIVATE["pipeline"] = chain.PRIVATE
SIGNERS = {name: Signer(key) for name, key in PRIVATE.items()}
KEYS = {name: s.keyid for name, s in SIGNERS.items()}


def because(value: Any) -> dict[str, Any]:
    return {"value": value, "because": WHY}


def members(*names: str) -> dict[str, Any]:
    return {"because": WHY, "members": [{"key": KEYS[n], "name": n} for n in names]}


def environment(**more: Any) -> dict[str, Any]:
    plain = {
        "namespace": because("prod"),
        "deploy": because("nothing"),
        "pipelines": {"toy": "total"},
        "runs_by": because("pipeline"),
        "released_by": because("promoter"),
        "gates": because(["enough"]),
        "after": because(None),
        "approvals": [
            {"role": "validator", "count": 1, "because": WHY},
            {"role": "owner", "count": 1, "because": WHY},
        ],
        "approvals_because": WHY,
        "known_submitter": because(value=False),
        "longest_days": because(7),
        "longest_minutes": because(30),
    }
    return {**plain, **more}


def raw(change: Callable[[dict[str, Any]], Any] = lambda _: None, **prod: Any) -> dict[str, Any]:
    """What a policy file says; `change` alters it in place."""
    said = {
        "roles": {
            "pipeline": members("pipeline"),
            "promoter": members("promoter"),
            "validator": members("vera", "victor"),
            "owner": members("olga"),
        },
        "environments": {
            "dev": environment(namespace=because("dev"), approvals=[], runs_by=because("anyone"), released_by=because("anyone")),
            "prod": environment(**prod),
        },
    }
    said = copy.deepcopy(said)
    change(said)
    return said


def policies(change: Callable[[dict[str, Any]], Any] = lambda _: None, **prod: Any) -> Policies:
    return parse(raw(change, **prod))


VERDICT: dict[str, Any] = {
    "gate": "enough",
    "says": "yes",
    "rules": [{"metric": "total", "where": "total", "at_least": 5, "value": 20, "says": "yes", "because": "just so"}],
}
EVIDENCE = Evidence(
    pipeline="toy",
    run="toy-0123456789ab",
    root="a" * 64,
    outcome=Outcome.DONE,
    model="b" * 64,
    verdicts=(VERDICT,),
    sealed="2026-02-27T12:00:00.000000+00:00",
    signers=(KEYS["pipeline"],),
    submitter=None,
    findings=(),
)


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def approval(by: str, evidence: Evidence = EVIDENCE, **more: Any) -> Approval:
    plain = Approval(
        pipeline=evidence.pipeline,
        run=evidence.run,
        root=evidence.root,
        model=evidence.model or "",
        verdicts=evidence.verdict_digest,
        environment="prod",
        by=KEYS[by],
        at=stamp(NOW - timedelta(days=1)),
        expires=stamp(NOW + timedelta(days=1)),
    )
    return replace(plain, **more)


def signed(by: str, evidence: Evidence = EVIDENCE, **more: Any) -> Signed:
    a = approval(by, evidence, **more)
    return Signed(approval=a, sha256=digest.of_bytes(SIGNERS[by].sign(encode_approval(a))).sha256)


def judged(*approvals: Signed, policy: Policies | None = None, evidence: Evidence = EVIDENCE, **more: Any) -> Judgement:
    plain: dict[str, Any] = {"environment": "prod", "now": NOW, "served_before": False}
    return judge(Case(policies=policy or policies(), evidence=evidence, **{**plain, **more}), approvals)


def run_in(store: LocalStore, run: str = chain.RUN, **how: Any) -> str:
    """A sealed run with its artifacts in a store, as a cluster would have left it; its root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "RUN", run)
        made = chain.build(**how)
    for name, data in made.documents.items():
        store.put_document(name, data)
    store.put_document(f"keys/{KEYS['pipeline']}.pem", SIGNERS["pipeline"].public_pem)
    for data in made.contents.values():
        with files.scratch(store.documents) as path:
            path.write_bytes(data)
            store.put_content(path)
    return str(made.root(run))


@dataclass
class Fake:
    """The port `Deployer`, for what no installation does when it is asked to: fail, die, say nothing."""

    told: list[Any] = field(default_factory=list)
    fails: Exception | None = None
    left: str = ""
    """What `heal` finds, in words."""
    arrives: bool = True
    """Whether what is deployed is there, whatever is said about it."""

    def heal(self, _: str) -> str:
        said, self.left = self.left, ""
        if said and isinstance(self.fails, NotServed):
            raise self.fails
        return said

    def installed(self) -> Installed | None:
        if not self.told:
            return None
        values = self.told[-1]
        return Installed(release=json.loads(values["release"])["release"]["sha256"], deployed=self._deployed(values))

    def deploy(self, values: Any) -> Deployed | None:
        if self.arrives:
            self.told.append(values)
        if self.fails is not None:
            raise self.fails
        return self._deployed(values)

    def _deployed(self, values: Any) -> Deployed:
        return Deployed(release="toy", namespace="prod", revision=len(self.told), values=digest.of_bytes(canonical.encode(values)).sha256)


@dataclass
class Office:
    """A store with runs, a policy, and whoever releases."""

    store: LocalStore
    policies: Policies
    fake: Fake = field(default_factory=Fake)
    minutes: int = 0

    def desk(self, environment: str = "prod", **more: Any) -> Desk:
        plain: dict[str, Any] = {
            "store": self.store, "policies": self.policies, "environment": environment, "signer": SIGNERS["promoter"],
            "deployer": lambda _: self.fake, "clock": self.clock,
        }  # fmt: skip
        return Desk(**{**plain, **more})

    def clock(self) -> str:
        self.minutes += 1
        return stamp(NOW + timedelta(minutes=self.minutes))

    def approve(self, who: str, run: str, environment: str = "prod") -> str:
        wish = approving.Wish(run=run, environment=environment)
        signer = SIGNERS[who]
        return approving.sign(self.store, signer, approving.draft(self.store, self.policies, wish, signer=signer, now=NOW))


def office(tmp_path: Path, change: Callable[[dict[str, Any]], Any] = lambda _: None, **prod: Any) -> Office:
    store = LocalStore(content=tmp_path, documents=tmp_path)
    return Office(store=store, policies=policies(change, **{"deploy": because("helm"), **prod}))


def failing(why: str, state: State) -> NotServed:
    return NotServed(why, state=state)
