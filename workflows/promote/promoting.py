"""Promotion and rollback: verify, judge, take a number, bring it there, say what came of it. Nothing about the caller is trusted."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from workflows.errors import BadInput, CountersignError, GateRefused, NotVerified, Problem, Temporary
from workflows.promote import approvals, ledger
from workflows.promote.deployer import Deployer, NotServed
from workflows.promote.evidence import Evidence, evidence_of
from workflows.promote.judging import Case, Judgement, judge
from workflows.promote.ledger import Entry, Ledger
from workflows.promote.policy import Environment, Policies, of
from workflows.prove import canonical
from workflows.prove.release import Deployed, Kind, Release, State, Variant, wrong_shares
from workflows.prove.signature import Signer
from workflows.prove.verify import Verification, verify
from workflows.run import keys
from workflows.run.reader import StoreReader
from workflows.run.session import now as clock_of_here
from workflows.run.store.interface import Store

CHAMPION, CHALLENGER = "champion", "challenger"
WORKFLOW = "workflow "  # what a holder begins with that is one
MOST = 0.9  # share of a challenger: with more it would be the champion


@dataclass(kw_only=True)
class Desk:
    """Where releases of one environment are made."""

    store: Store
    policies: Policies
    environment: str
    signer: Signer
    deployer: Callable[[str], Deployer]
    """Pipeline -> what serves it."""
    base: Mapping[str, Any] = field(default_factory=dict)
    """The environment's own values for the chart; the release is added to them."""
    clock: Callable[[], str] = clock_of_here
    holder: str = ""

    def __post_init__(self) -> None:
        self.holder = self.holder or holder_here()
        self.policy: Environment = of(self.policies, self.environment)
        self.ledger = Ledger(self.store, self.policies, self.environment)

    @property
    def now(self) -> datetime:
        return datetime.fromisoformat(self.clock())


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A run that is to take a share of the decisions."""

    run: str
    name: str = CHAMPION
    share: float = 1.0
    shadow: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """A run, what is known of it, and whether it may come."""

    evidence: Evidence
    judgement: Judgement


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """What a release is to bring."""

    kind: Kind
    pipeline: str
    variants: tuple[Variant, ...]
    approvals: tuple[str, ...]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Promoted:
    """What serves now."""

    entry: Entry
    unchanged: bool = False
    """It served already, and nothing was done."""
    healed: str = ""
    """What of an interrupted release was put right before, in words."""


def look(desk: Desk, run: str) -> Looked:
    """Verify a run, whole, and judge whether it may come to the environment. It changes nothing."""
    evidence = found_evidence(desk.store, desk.policy, run)
    listed = approvals.listed(desk.store, keys.ring(desk.store), evidence.root, desk.environment)
    case = Case(
        policies=desk.policies,
        environment=desk.environment,
        evidence=evidence,
        now=desk.now,
        served_before=_served_before(desk, evidence.root),
    )
    return Looked(evidence=evidence, judgement=judge(case, listed))


def found_evidence(store: Store, policy: Environment, run: str) -> Evidence:
    """What verification says of a run; `NotVerified` where not even its seal can be read."""
    checked: Verification = verify(run, StoreReader(store), keys.ring(store))
    pipeline = checked.seal.pipeline if checked.seal else ""
    evidence = evidence_of(checked, policy.pipelines.get(pipeline, "model"))
    if evidence is None:
        raise NotVerified(*(Problem(what=f.what, where=f.where) for f in checked.findings))
    return evidence


def promote(desk: Desk, asked: Sequence[Asked], *, reason: str = "") -> Promoted:
    """Bring these runs to the environment. `GateRefused` and `NotVerified` say why not; then nothing was touched."""
    healed = heal(desk)
    looked = {a.run: look(desk, a.run) for a in asked}
    refuse(desk.environment, looked)
    evidence = looked[asked[0].run].evidence
    if others := {x.evidence.pipeline for x in looked.values()} - {evidence.pipeline}:
        raise BadInput(Problem(what="runs of different pipelines cannot share an environment", got=", ".join(sorted(others))))
    variants = tuple(_variant(a, looked[a.run].evidence) for a in asked)
    if wrong := wrong_shares(variants):
        raise BadInput(Problem(what=wrong, where="variants"))
    entries = _of_pipeline(desk.ledger.read(), evidence.pipeline)
    if refused := _refused_here(desk, entries, variants):
        raise refused
    if (serving := ledger.serving(entries)) and serving[-1].variants == variants and _still_there(desk, serving[-1]):
        return Promoted(entry=serving[-1], unchanged=True, healed=healed)
    counted = tuple(sorted({sha for x in looked.values() for sha in x.judgement.counted}))
    wish = _Wish(kind=Kind.PROMOTION, pipeline=evidence.pipeline, variants=variants, approvals=counted, reason=reason)
    begun = _begin(desk, wish)
    return Promoted(entry=_carry_out(desk, begun), healed=healed)


def rollback(desk: Desk, pipeline: str, *, reason: str, asked_at: datetime | None = None) -> Promoted:
    """Go back to the last that served before and still verifies. Its approvals were judged when it was released, and stand in it.

    What was passed over, and why, is recorded with the reason; `NotVerified` lists it all where nothing is left. Whoever waited
    their turn gives the moment they asked, and `GateRefused` says that what they saw was gone before it came.
    """
    healed = heal(desk)
    entries = _of_pipeline(desk.ledger.read(), pipeline)
    serving = ledger.serving(entries)
    if asked_at is not None and (gone := _gone_since(entries, asked_at)):
        if gone[-1].done and gone[-1].begun.holder == desk.holder:
            return Promoted(entry=gone[-1], unchanged=True, healed=healed)
        raise _overtaken(desk, gone[-1], serving)
    if len(serving) < 2:  # noqa: PLR2004  # what serves, and something before it
        got = f"{len(serving)} release{'s' if len(serving) != 1 else ''} of {pipeline} that came to serve"
        raise BadInput(Problem(what="there is nothing to go back to", where=desk.environment, got=got))
    target, passed_over = _last_sound(desk, serving[:-1])
    words = _words("; ".join([*([reason] if reason else []), *passed_over]))
    wish = _Wish(kind=Kind.ROLLBACK, pipeline=pipeline, variants=target.variants, approvals=target.approvals, reason=words)
    begun = _begin(desk, wish)
    return Promoted(entry=_carry_out(desk, begun), healed=healed)


def heal(desk: Desk) -> str:
    """Put right what a release left that died on its way; what was done, in words. `Temporary` where it may be alive."""
    entries = desk.ledger.read()
    if not entries or entries[-1].ended is not None:
        return ""
    left = entries[-1]
    if why := _may_be_alive(desk, left.begun):
        raise Temporary(
            Problem(what=f"release {left.sequence} is on its way: {why}", where=desk.environment),
            hint="wait for it; one that died is put right by whoever asks after its time",
        )
    state, said, deployed = _left(desk.deployer(left.begun.pipeline), left.sha256)
    words = f"its process died{f'; {said}' if said else ''}; {'it serves' if state is State.DONE else 'it does not serve'}"
    _end(desk, left, state, words, deployed)
    return f"release {left.sequence} was interrupted: {words}"


def release_file(entry: Entry) -> dict[str, Any]:
    """What a server is told: which runs it serves, by digest, and by which release."""
    b = entry.begun
    variants = [{"name": v.name, "run": v.run, "root": v.root, "model": v.model, "share": v.share, "shadow": v.shadow} for v in b.variants]
    release = {"environment": b.environment, "sequence": b.sequence, "sha256": entry.sha256}
    return {"release": release, "pipeline": b.pipeline, "variants": variants}


def only_pipeline(desk: Desk) -> str:
    """The pipeline whose server an environment has; `BadInput` where it has several, or none."""
    served = sorted({e.begun.pipeline for e in desk.ledger.read() if e.done})
    if len(served) != 1:
        expected = f"one of {', '.join(served)}" if served else "an environment that served something"
        raise BadInput(Problem(what="which pipeline's server?", where=desk.environment, expected=expected))
    return served[0]


def holder_here() -> str:
    """This process, for whoever wonders later whether it is still at it. In a workflow: the workflow, whose pods may be many."""
    workflow = os.environ.get("COUNTERSIGN_WORKFLOW")
    return holder_of(workflow) if workflow else f"{platform.node()} process {os.getpid()}"


def holder_of(workflow: str) -> str:
    """A workflow, by its uid."""
    return f"{WORKFLOW}{workflow}"


def asked_of(run: str, challenger: str | None, share: float) -> list[Asked]:
    """One run, or two that share the decisions; with share 0 the second looks on."""
    if challenger is None:
        if share:
            raise BadInput("a share without a challenger", hint="--challenger RUN")
        return [Asked(run=run)]
    if not 0 <= share <= MOST:
        raise BadInput(Problem(what="not a challenger's share", expected=f"0 to {MOST}", got=f"{share:g}"))
    return [Asked(run=run, share=1.0 - share), Asked(run=challenger, name=CHALLENGER, share=share, shadow=share == 0)]


def refuse_for_good(desk: Desk, asked: Sequence[Asked]) -> None:
    """Raise where no approval would let these runs in: then nobody need be waited for."""
    looked = {a.run: look(desk, a.run) for a in asked}
    if any(not (x.judgement.allowed or x.judgement.waiting) for x in looked.values()):
        refuse(desk.environment, looked)


def refuse(environment: str, looked: Mapping[str, Looked]) -> None:
    """Raise where a run may not come: `NotVerified` for what is not what it says, `GateRefused` for all else."""
    problems = [Problem(what=why, where=f"{run} for {environment}") for run, x in looked.items() for why in x.judgement.reasons]
    if any(x.evidence.findings for x in looked.values()):
        raise NotVerified(*problems)
    if problems:
        waiting = all(x.judgement.waiting or x.judgement.allowed for x in looked.values())
        run = next(r for r, x in looked.items() if not x.judgement.allowed)
        hint = f"whoever may approve types: countersign approve {run} --env {environment}" if waiting else "nothing was changed"
        raise GateRefused(*problems, hint=hint)


def _variant(asked: Asked, evidence: Evidence) -> Variant:
    return Variant(name=asked.name, run=evidence.run, root=evidence.root, model=str(evidence.model), share=asked.share, shadow=asked.shadow)


def _of_pipeline(entries: Sequence[Entry], pipeline: str) -> list[Entry]:
    return [e for e in entries if e.begun.pipeline == pipeline]


def _still_there(desk: Desk, serving: Entry) -> bool:
    """Whether the installation serves what the ledger says; somebody may have changed or removed it by hand."""
    if desk.policy.deploy.value == "nothing":
        return True
    there = desk.deployer(serving.begun.pipeline).installed()
    return there is not None and there.release == serving.sha256


def _refused_here(desk: Desk, entries: Sequence[Entry], variants: tuple[Variant, ...]) -> GateRefused | None:
    """What this workflow brought already and was refused, before applicants or by its test: only its pod is started again.

    Where it never came so far, it is tried again; and a process of its own is a person, who may.
    """
    own = [e for e in entries if e.begun.holder == desk.holder and e.variants == variants and e.begun.kind is Kind.PROMOTION]
    if not desk.holder.startswith(WORKFLOW) or not own or (ended := own[-1].ended) is None:
        return None
    if ended.state is not State.ABORTED and (ended.state is not State.FAILED or ended.deployed is None):
        return None
    what = f"promotion {own[-1].sequence} of this workflow ended as {ended.state}: {ended.reason}"
    return GateRefused(Problem(what=what, where=desk.environment), hint=f"see what serves: countersign history --env {desk.environment}")


def _gone_since(entries: Sequence[Entry], moment: datetime) -> list[Entry]:
    """Releases since a moment that took away what answered then: rollbacks that came to serve, promotions that did not."""
    since = [e for e in entries if e.ended and datetime.fromisoformat(e.ended.at) >= moment]
    return [e for e in since if e.done == (e.begun.kind is Kind.ROLLBACK)]


def _overtaken(desk: Desk, by: Entry, serving: Sequence[Entry]) -> GateRefused:
    """Not done, and no success either: whoever asked takes that for what served then being gone."""
    pipeline, state = by.begun.pipeline, by.ended.state if by.ended else by.begun.state
    serves = f"release {serving[-1].sequence} of {pipeline} serves" if serving else f"nothing of {pipeline} serves"
    what = f"{by.begun.kind} {by.sequence} ended as {state} after this rollback was asked for; {serves}"
    hint = f"if it is still wanted, type: countersign rollback --env {desk.environment} --pipeline {pipeline}"
    return GateRefused(Problem(what=what, where=desk.environment), hint=f"nothing was changed; {hint}")


def _last_sound(desk: Desk, before: Sequence[Entry]) -> tuple[Release, list[str]]:
    """The newest of these whose runs all verify, and the others that came after it, each with what is wrong."""
    problems: list[Problem] = []
    passed_over: list[str] = []
    for e in reversed(before):
        wrong = [p for v in e.variants for p in _unsound(desk, v)]
        if not wrong:
            return e.begun, passed_over
        problems += wrong
        passed_over.append(f"release {e.sequence} was passed over: {wrong[0]}")
    raise NotVerified(*problems, hint="promote a run that verifies")


def _unsound(desk: Desk, variant: Variant) -> list[Problem]:
    """Why a rollback may not bring this back. It asks for no new consent, and for every proof."""
    try:
        evidence = found_evidence(desk.store, desk.policy, variant.run)
    except NotVerified as error:
        return list(error.problems)
    problems = [Problem(what=str(f), where=variant.run) for f in evidence.findings]
    if (evidence.root, evidence.model) != (variant.root, variant.model):
        problems.append(Problem(what="the run is not what it was when it was released", where=variant.run))
    return problems + [
        Problem(what=f"its signer's key is revoked: {why}", where=variant.run)
        for key in evidence.signers
        if (why := desk.policies.why_revoked(key, evidence.sealed))
    ]


def _served_before(desk: Desk, root: str) -> bool:
    before = desk.policy.after.value
    return bool(before) and ledger.served(Ledger(desk.store, desk.policies, str(before)).read(), root)


def _left(deployer: Deployer, release: str) -> tuple[State, str, Deployed | None]:
    """What came of a release that nobody saw to its end; what was done about it, in words; and what of it is, or was, installed."""
    try:
        said = deployer.heal(release)
    except NotServed as error:
        return error.state, error.why, error.deployed
    there = deployer.installed()
    if there is not None and there.release == release:
        return State.DONE, said, there.deployed
    return State.FAILED, said, None


def _begin(desk: Desk, wish: _Wish) -> Entry:
    entries = desk.ledger.read()
    if entries and entries[-1].ended is None:
        raise Temporary(Problem(what=f"release {entries[-1].sequence} began in the meantime", where=desk.environment))
    wanted = Release(
        environment=desk.environment,
        sequence=len(entries) + 1,
        state=State.BEGUN,
        previous=entries[-1].end_sha256 if entries else None,
        kind=wish.kind,
        pipeline=wish.pipeline,
        variants=wish.variants,
        approvals=wish.approvals,
        policy=desk.policies.digest_of(desk.environment),
        by=desk.signer.keyid,
        holder=desk.holder,
        at=desk.clock(),
        reason=wish.reason,
    )
    return desk.ledger.take(wanted, desk.signer)


def _carry_out(desk: Desk, entry: Entry) -> Entry:
    """Bring a begun release to serve, and say what came of it. What kills this process leaves it to `heal`."""
    values = {
        **desk.base,
        "pipeline": entry.begun.pipeline,
        "release": canonical.encode(release_file(entry)).decode(),
        "rollback": entry.begun.kind is Kind.ROLLBACK,
    }
    try:
        deployed = desk.deployer(entry.begun.pipeline).deploy(values)
    except NotServed as error:
        _end(desk, entry, error.state, error.why, error.deployed)
        raise
    except CountersignError as error:
        if not isinstance(error, Temporary):  # else: what is on its way may arrive; whoever tries again finds out
            _end(desk, entry, State.FAILED, "; ".join(str(p) for p in error.problems))
        raise
    return _end(desk, entry, State.DONE, entry.begun.reason, deployed)


def _end(desk: Desk, entry: Entry, state: State, reason: str, deployed: Any = None) -> Entry:
    words = _words(reason)
    ended = replace(
        entry.begun,
        state=state,
        by=desk.signer.keyid,
        holder=desk.holder,
        at=max(desk.clock(), entry.begun.at),
        reason=words,
        deployed=deployed,
    )
    return desk.ledger.end(entry, ended, desk.signer)


def _words(text: str) -> str:
    """As a release may hold it: one line, and not too long."""
    return "".join(c if c.isprintable() else " " for c in text)[:1000]


def _may_be_alive(desk: Desk, begun: Release) -> str:
    """Why whoever began a release may still be at it; empty where it is dead, or is this process itself, started again."""
    if begun.holder == desk.holder:
        return ""
    host, _, process = begun.holder.rpartition(" process ")
    if host == platform.node() and process.isdecimal() and not _runs(int(process)):
        return ""
    until = datetime.fromisoformat(begun.at) + timedelta(minutes=desk.policy.longest_minutes.value)
    return "" if desk.now >= until else f"{begun.holder} began it at {begun.at} and has time until {until:%H:%M:%S} UTC"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
