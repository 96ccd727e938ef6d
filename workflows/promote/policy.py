"""`params/environments.yaml`: who may bring what into which environment. Every value stands there with its reason.

It is the root of trust of promotion: keys are named by their ids, so public keys may lie wherever they are found. What
follows from the file is decided in `judging`; here it is read, and all that is wrong with it is said at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from workflows.errors import BadInput, Problem
from workflows.prove import canonical, digest
from workflows.run import parameters

PATH = "params/environments.yaml"
ANYONE = "anyone"

T = TypeVar("T")
KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Short = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Because = Annotated[str, StringConstraints(min_length=8, max_length=500)]
Moment = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\+00:00$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Reasoned(_Model, Generic[T]):
    """A value, and why it is that."""

    value: T
    because: Because


class Member(_Model):
    """A person or machine, by the key that it signs with."""

    key: KeyId
    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    accounts: tuple[str, ...] = ()
    """Who this is for a cluster's API server (`kubectl auth whoami`): what these accounts submitted is theirs, as what the key signed
    is. An account that several people share tells nobody apart."""


class Role(_Model):
    """Who may speak as what."""

    because: Because
    members: tuple[Member, ...] = ()


class Revoked(_Model):
    """A key that is not to be trusted for what it signed from a moment on; without one, for nothing it ever signed."""

    key: KeyId
    because: Because
    since: Moment | None = None


class Needed(_Model):
    """How many members of a role must approve."""

    role: Short
    count: Annotated[int, Field(ge=1, le=10)]
    because: Because


class Floor(_Model):
    """A limit of this environment on a number that a gate of the run has judged already."""

    gate: Name
    metric: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    at_least: float | None = None
    at_most: float | None = None
    because: Because


class Environment(_Model):
    """What holds for one environment."""

    namespace: Reasoned[Label]
    deploy: Reasoned[Literal["workflow", "helm", "nothing"]]
    """`workflow`: the cluster's own promoter, with Helm, is asked. `helm`: whoever types the command, with Helm. `nothing`: the
    release is recorded, and whoever runs a server gives it the release's file."""
    pipelines: dict[Name, Name] = Field(min_length=1)
    """Pipeline -> the artifact that is its model."""
    runs_by: Reasoned[Short]
    """The role whose keys may have signed a run's records; or `anyone`."""
    released_by: Reasoned[Short]
    """The role whose keys may sign releases; or `anyone`."""
    gates: Reasoned[tuple[Name, ...]]
    """Gates that must have been judged. A run without them has passed nothing."""
    after: Reasoned[Short | None]
    """The environment that the same model must have been served in before."""
    approvals: tuple[Needed, ...]
    approvals_because: Because
    """Why these approvals, or why none."""
    known_submitter: Reasoned[bool]
    """Whether a run's seal must name the account that submitted it. Without, an approval may come from whoever did."""
    longest_days: Reasoned[Annotated[int, Field(ge=1, le=365)]]
    """For how many days an approval may hold."""
    longest_minutes: Reasoned[Annotated[int, Field(ge=1, le=24 * 60)]]
    """How long a release may take. One that is not over by then is taken for dead, and put right by the next."""
    floors: tuple[Floor, ...] = ()


class Policies(_Model):
    """The whole file."""

    roles: dict[Short, Role]
    revoked: tuple[Revoked, ...] = ()
    environments: dict[Short, Environment] = Field(min_length=1)

    def keys_of(self, role: str) -> frozenset[str] | None:
        """Key ids of a role; None where anyone has it."""
        return None if role == ANYONE else frozenset(m.key for m in self.roles[role].members)

    def name_of(self, key: str) -> str:
        """Who a key belongs to, for people; the key id where nobody is named."""
        return next((m.name for r in self.roles.values() for m in r.members if m.key == key), key)

    def accounts_of(self, key: str) -> frozenset[str]:
        return frozenset(a for r in self.roles.values() for m in r.members if m.key == key for a in m.accounts)

    def why_revoked(self, key: str, signed: str) -> str:
        """Why what a key signed at a moment (RFC 3339) counts for nothing; empty where it counts."""
        at = datetime.fromisoformat(signed)
        for r in self.revoked:
            if r.key == key and (r.since is None or at >= datetime.fromisoformat(r.since)):
                return f"{r.because}{f' (since {r.since})' if r.since else ''}"
        return ""

    def digest_of(self, environment: str) -> str:
        """What a release names of all this: the environment's section, the roles and the revoked keys."""
        said = self.model_dump(mode="json", exclude={"environments"})
        mine = self.environments[environment].model_dump(mode="json")
        return digest.tagged("environment-policy", environment, canonical.encode({**said, "environment": mine}))


def read(path: Path, where: str = PATH) -> Policies:
    """The file's policies; `BadInput` names everything that is wrong with it."""
    if not path.exists():
        raise BadInput(Problem(what="there is no such file: nobody may promote anything", where=str(path)))
    return parse(parameters.read_yaml(path, where), where)


def parse(raw: Any, where: str = PATH) -> Policies:
    """The policies of what the YAML says; `BadInput` as for `read`."""
    try:
        # Through JSON, where strict still takes a list for a tuple: YAML has no tuples.
        policies = Policies.model_validate_json(canonical.encode(raw))
    except canonical.NotCanonical as error:
        raise BadInput(Problem(what=f"holds a value that JSON has no form for: {error}", where=where)) from None
    except ValidationError as error:
        raise BadInput(*(_problem(e, where) for e in error.errors())) from None
    if problems := list(_contradictions(policies, where)):
        raise BadInput(*problems)
    return policies


def of(policies: Policies, environment: str) -> Environment:
    """An environment by name; `BadInput` where there is none."""
    if environment not in policies.environments:
        expected = f"one of {', '.join(sorted(policies.environments))}"
        raise BadInput(Problem(what=f"no environment {environment}", where=PATH, expected=expected))
    return policies.environments[environment]


def _problem(error: Any, where: str) -> Problem:
    path = ".".join(str(part) for part in error["loc"])
    got = "" if error["type"] == "missing" else repr(error["input"])[:80]
    return Problem(what=error["msg"], where=f"{where}: {path}" if path else where, got=got)


def _contradictions(policies: Policies, where: str) -> Iterator[Problem]:
    """What is well formed and still cannot be meant."""
    for name, e in policies.environments.items():
        at = f"{where}: environments.{name}"
        yield from _unknown_roles(policies, e, at)
        yield from _unfit_order(policies.environments, name, e, at)
        for i, f in enumerate(e.floors):
            if (f.at_least is None) == (f.at_most is None):
                yield Problem(what="expected exactly one of at_least and at_most", where=f"{at}.floors.{i}")
        if len({n.role for n in e.approvals}) != len(e.approvals):
            yield Problem(what="a role is asked twice", where=f"{at}.approvals", expected="one line a role, with its count")
        if not e.gates.value:
            yield Problem(what="no gate is asked for", where=f"{at}.gates", expected="at least one: an empty list lets everything pass")
    for name, role in policies.roles.items():
        if name == ANYONE:
            yield Problem(what="the word for no role", where=f"{where}: roles.{name}")
        if len({m.key for m in role.members}) != len(role.members):
            yield Problem(what="a key is listed twice", where=f"{where}: roles.{name}.members")
    yield from _two_of_one(policies, where)


def _two_of_one(policies: Policies, where: str) -> Iterator[Problem]:
    """Whoever had two keys would count as two people, and could approve with one what the other made."""
    keys: dict[str, set[str]] = {}
    for role in policies.roles.values():
        for m in role.members:
            keys.setdefault(m.name, set()).add(m.key)
    for name in sorted(n for n, of_name in keys.items() if len(of_name) > 1):
        yield Problem(
            what=f"{name} has {len(keys[name])} keys",
            where=f"{where}: roles",
            expected="a key for each name: who has two would count twice",
        )


def _unknown_roles(policies: Policies, e: Environment, at: str) -> Iterator[Problem]:
    asked = {"runs_by": e.runs_by.value, "released_by": e.released_by.value}
    asked |= {f"approvals.{i}": n.role for i, n in enumerate(e.approvals)}
    for field, role in asked.items():
        anyone = role == ANYONE and not field.startswith("approvals")
        if role not in policies.roles and not anyone:
            yield Problem(what=f"no role {role}", where=f"{at}.{field}", expected=f"one of {', '.join(sorted(policies.roles)) or 'none'}")


def _unfit_order(environments: Mapping[str, Environment], name: str, e: Environment, at: str) -> Iterator[Problem]:
    before = e.after.value
    if before is None:
        return
    if before not in environments:
        yield Problem(what=f"no environment {before}", where=f"{at}.after")
        return
    seen, step = {name}, before
    while step and step in environments:
        if step in seen:
            yield Problem(what="environments wait for each other in a circle", where=f"{at}.after")
            return
        seen.add(step)
        step = environments[step].after.value or ""
