"""Where releases of an environment are made: the one place that chooses how it is deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.errors import BadInput, Problem
from workflows.promote.deployer import Deployer, Nothing
from workflows.promote.helm import CHART, Helm
from workflows.promote.policy import Policies, of
from workflows.promote.promoting import Desk
from workflows.run import keys, parameters
from workflows.run.session import checkout
from workflows.run.store.interface import Store

UNSET = f"sha256:{'0' * 64}"
"""As the environments' values are committed: whoever installs says which image it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where an environment is, as far as it is to be another place than the policy and the checkout say."""

    namespace: str | None = None
    context: str | None = None
    values: Path | None = None
    """The environment's own values for the chart."""


def at_desk(store: Store, environment: str, policies: Policies, target: Target, *, inside: bool = False) -> Desk:
    """A desk with this machine's signing key. `inside` is the cluster's own promoter; nobody else releases where it must be asked."""
    signer, _ = keys.signer()
    chosen = of(policies, environment)
    if chosen.deploy.value == "workflow" and not inside:
        return Desk(store=store, policies=policies, environment=environment, signer=signer, deployer=_asked_elsewhere)
    if chosen.deploy.value == "nothing":
        return Desk(store=store, policies=policies, environment=environment, signer=signer, deployer=lambda _: Nothing())
    namespace, minutes = target.namespace or chosen.namespace.value, chosen.longest_minutes.value

    def deployer(pipeline: str) -> Deployer:
        return Helm.found(checkout(), pipeline, namespace=namespace, context=target.context, minutes=minutes)

    base = base_values(target.values or checkout() / CHART / "environments" / f"{environment}.yaml")
    return Desk(store=store, policies=policies, environment=environment, signer=signer, deployer=deployer, base=base)


def _asked_elsewhere(pipeline: str) -> Deployer:
    raise BadInput(Problem(what="only the cluster's promoter releases here", where=pipeline), hint="the same command asks it")


def base_values(path: Path) -> dict[str, Any]:
    """What an environment differs in from the chart's own values.

    `BadInput` where it says what is the promoter's to say, or not which image and code serve: a release that nothing can start
    would be found out only after it took its number.
    """
    found = parameters.read_yaml(path, str(path))
    if not isinstance(found, dict):
        raise BadInput(Problem(what="no values for the chart", where=str(path), expected="a mapping"))
    if mine := {"release", "pipeline", "rollback"} & set(found):
        raise BadInput(Problem(what=f"{', '.join(sorted(mine))}: the promoter's to say", where=str(path)))
    if lacking := _lacking(found, str(path)):
        raise BadInput(*lacking, hint="an administrator fills in what was built and published (docs/promotion.md)")
    return found


def _lacking(values: Mapping[str, Any], where: str) -> list[Problem]:
    image = values.get("image")
    named = image if isinstance(image, dict) else {}
    digest = named.get("digest") or ""
    problems = []
    if digest == UNSET or not (digest or named.get("tag")):
        expected = "the digest that the registry answered when the image was pushed"
        problems.append(Problem(what="no image", where=f"{where}: image.digest", expected=expected, got=digest or "nothing"))
    if not values.get("code"):
        expected = "sha256:md5:size, as countersign publish --json says it"
        problems.append(Problem(what="no code", where=f"{where}: code", expected=expected, got="nothing"))
    return problems
