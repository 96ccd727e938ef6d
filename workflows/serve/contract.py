"""What may be asked of a model, as its run's contract says, and whether an application asks it: all that is wrong at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeGuard

FORMAT = "urn:countersign:contract:v1"
NAN = float("nan")
LONGEST_SUBJECT = 200
FIELDS = ("subject", "features", "groups", "explain")
HUGE = 1e300
MOST_PROBLEMS = 100
"""An answer names no more: a caller who sends ten thousand unknown fields learns it from the first hundred."""


class NotAContract(ValueError):
    """The report is not a contract of this format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wrong:
    """One thing that is wrong with an application, in the words of whoever sent it."""

    where: str
    what: str
    expected: str = ""
    got: str = ""

    def to_json(self) -> dict[str, str]:
        return {"where": self.where, "what": self.what, "expected": self.expected, "got": self.got}


class BadApplication(ValueError):
    """The application cannot be decided. Everything that is wrong with it, the first `MOST_PROBLEMS` at most."""

    def __init__(self, problems: list[Wrong]) -> None:
        self.problems = problems[:MOST_PROBLEMS]
        super().__init__("; ".join(f"{p.where}: {p.what}" for p in self.problems))


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """One feature of the contract. `codes` of a category; `lowest` and `highest`, both allowed, of a number or integer."""

    name: str
    type: str
    unit: str
    words: str
    reason_code: str
    reason_words: str
    may_be_missing: bool
    sealed: bool
    lowest: float = 0.0
    highest: float = 0.0
    codes: frozenset[int] = frozenset()

    @property
    def bounds(self) -> str:
        """What is allowed, in words."""
        if self.type == "category":
            return f"one of {', '.join(map(str, sorted(self.codes)))}"
        return f"{'a whole number ' if self.type == 'integer' else ''}from {self.lowest:.12g} to {self.highest:.12g} ({self.unit})"

    def accepts(self, value: object) -> bool:
        """Whether this is a value of the feature. Exact types: a JSON true is no number."""
        if type(value) is not float and type(value) is not int:
            return value is None and self.may_be_missing
        if self.type == "category":
            return value in self.codes
        return self.lowest <= value <= self.highest and (self.type == "number" or value == int(value))

    def wrong(self, value: object) -> Wrong:
        """What to say of a value that is not accepted."""
        where = f"features.{self.name}"
        if value is None:
            return Wrong(where=where, what="missing", expected=self.bounds)
        if type(value) is not float and type(value) is not int:
            return Wrong(where=where, what="wrong type", expected=self.bounds, got=_kind(value))
        return Wrong(
            where=where, what=self._off(value), expected=self.bounds, got=f"{value:.12g}" if abs(value) < HUGE else "a huge number"
        )

    def _off(self, value: float) -> str:
        if self.type == "category":
            return "unknown code"
        return "not a whole number" if self.lowest <= value <= self.highest else "out of range"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """One feature that must be another divided by a third, within a tolerance."""

    ratio: str
    of: str
    to: str
    tolerance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
    """An application that keeps to the contract."""

    subject: str
    values: tuple[float | int | None, ...]
    """In the model's order, whole numbers as such."""
    groups: Mapping[str, str]
    explain: bool
    """Reasons are wanted although the answer may be good."""

    @property
    def row(self) -> list[float]:
        """What the model is given: a missing value is NaN."""
        return [NAN if v is None else float(v) for v in self.values]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """A contract, read."""

    features: tuple[Feature, ...]
    names: frozenset[str]
    """Of all features."""
    ratios: tuple[Ratio, ...]
    most_reasons: int
    needs: tuple[str, ...]
    """Protected attributes without which the decision rule cannot decide."""
    groups: Mapping[str, frozenset[str]]

    def check(self, body: object) -> Application:
        """The application that a JSON body is; `BadApplication` lists everything that is wrong with it."""
        if not isinstance(body, dict):
            raise BadApplication([Wrong(where="body", what="wrong type", expected="an object", got=_kind(body))])
        given = body.get("features")
        if type(given) is dict and given.keys() == self.names and body.keys() <= _PLAIN:
            values, subject = self._plain(given), body.get("subject")
            if values is not None and _is_subject(subject) and not self.needs:
                return Application(subject=subject, values=values, groups={}, explain=False)
        return self._in_full(body)

    def _plain(self, given: dict[str, Any]) -> tuple[float | int | None, ...] | None:
        """The values where there is nothing to say against any of them."""
        values: list[float | int | None] = []
        for f in self.features:
            value = given.get(f.name)
            # What most are, without a call.
            if type(value) is float and f.type == "number" and f.lowest <= value <= f.highest:
                values.append(value)
            elif not f.accepts(value):
                return None
            else:
                values.append(None if value is None else float(value) if f.type == "number" else int(value))
        return None if any(self._disagreements(given)) else tuple(values)

    def _in_full(self, body: dict[str, Any]) -> Application:
        problems = [Wrong(where=shown(n), what="unknown field", expected=f"one of {', '.join(FIELDS)}") for n in body if n not in FIELDS]
        if not _is_subject(subject := body.get("subject")):
            problems.append(Wrong(where="subject", what="missing or no name for a subject", expected=f"1 to {LONGEST_SUBJECT} characters"))
        if type(explain := body.get("explain", False)) is not bool:
            problems.append(Wrong(where="explain", what="wrong type", expected="true or false", got=_kind(explain)))
        problems += self._wrong_groups(groups := body.get("groups", {}))
        problems += self._wrong_features(given := body.get("features"))
        values = None if problems else self._plain(given)  # type: ignore[arg-type]  # an object, or there is a problem
        if values is None:
            raise BadApplication(problems)
        return Application(subject=subject, values=values, groups=groups, explain=explain)  # type: ignore[arg-type]  # likewise

    def _wrong_groups(self, groups: object) -> Iterator[Wrong]:
        if type(groups) is not dict:
            yield Wrong(where="groups", what="wrong type", expected="an object", got=_kind(groups))
            return
        for name, value in groups.items():
            if name not in self.groups:
                known = ", ".join(sorted(self.groups)) or "none"
                yield Wrong(where=f"groups.{shown(name)}", what="unknown attribute", expected=f"one of {known}")
            elif type(value) is not str or value not in self.groups[name]:
                yield Wrong(where=f"groups.{name}", what="unknown group", expected=f"one of {', '.join(sorted(self.groups[name]))}")
        for name in self.needs:
            if name not in groups:
                yield Wrong(
                    where=f"groups.{name}", what="missing: the decision rule needs it", expected=", ".join(sorted(self.groups[name]))
                )

    def _wrong_features(self, given: object) -> Iterator[Wrong]:
        if type(given) is not dict:
            expected = f"an object with {len(self.features)} features"
            yield Wrong(where="features", what="missing" if given is None else "wrong type", expected=expected, got=_kind(given))
            return
        for name in given:
            if name not in self.names:
                yield Wrong(where=f"features.{shown(name)}", what="unknown feature", expected="a feature of the model: GET /v1/contract")
        bad = [f for f in self.features if not f.accepts(given.get(f.name))]
        yield from (f.wrong(given.get(f.name)) for f in bad)
        if not bad:
            yield from self._disagreements(given)

    def _disagreements(self, given: dict[str, Any]) -> Iterator[Wrong]:
        for r in self.ratios:
            of, to, ratio = given.get(r.of), given.get(r.to), given.get(r.ratio)
            if of is None or to is None or ratio is None:
                continue
            # Divided by zero it is no ratio, whatever the third says.
            if not to or not abs(of / to - ratio) <= r.tolerance:
                expected = f"{r.of} / {r.to}" + (f" = {of / to:.6g}, give or take {r.tolerance:g}" if to else "")
                yield Wrong(where=f"features.{r.ratio}", what="does not agree", expected=expected, got=f"{ratio:.12g}")


_PLAIN = frozenset(("subject", "features"))


def read(report: Mapping[str, Any]) -> Contract:
    """The contract that a report is; `NotAContract` where it is of another format."""
    try:
        if report["format"] != FORMAT:
            raise NotAContract(f"format {report['format']!r}, expected {FORMAT}")
        return Contract(
            features=tuple(_feature(f) for f in report["features"]),
            names=frozenset(f["name"] for f in report["features"]),
            ratios=tuple(Ratio(**r) for r in report["ratios"]),
            most_reasons=int(report["most_reasons"]),
            needs=tuple(report["rule"]["needs"]),
            groups={name: frozenset(words) for name, words in report["groups"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise NotAContract(f"not a contract: {type(error).__name__}: {error}") from None


def differences(one: Contract, other: Contract) -> Iterator[tuple[str, str, str]]:
    """Where they differ: the field, and what each of the two says."""
    names = [tuple(f.name for f in c.features) for c in (one, other)]
    if names[0] != names[1]:
        yield "features", ", ".join(names[0]), ", ".join(names[1])
    else:
        for a, b in zip(one.features, other.features, strict=True):
            yield from _fields(a, b, f"features.{a.name}.")
    yield from _fields(one, other, "", but=("features", "names"))


def _fields(one: Any, other: Any, where: str, but: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str]]:
    for name in (f.name for f in fields(one) if f.name not in but):
        a, b = getattr(one, name), getattr(other, name)
        if a != b:
            yield f"{where}{name}", _words(a), _words(b)


def _words(value: object) -> str:
    """A value of a contract; sets in order."""
    if isinstance(value, frozenset):
        return ", ".join(map(str, sorted(value))) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {_words(v)}" for k, v in sorted(value.items())) or "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _feature(f: Mapping[str, Any]) -> Feature:
    bounds: dict[str, Any] = {"codes": frozenset(f["codes"])} if f["type"] == "category" else {k: f[k] for k in ("lowest", "highest")}
    if f["type"] not in {"number", "integer", "category"}:
        raise NotAContract(f"feature {f['name']!r} of type {f['type']!r}")
    return Feature(
        name=f["name"],
        type=f["type"],
        unit=f["unit"],
        words=f["words"],
        reason_code=f["reason"]["code"],
        reason_words=f["reason"]["words"],
        may_be_missing=f["may_be_missing"],
        sealed=f["sealed"],
        **bounds,
    )


def _is_subject(value: object) -> TypeGuard[str]:
    """Text that has UTF-8: a lone surrogate has none."""
    if type(value) is not str or not 0 < len(value) <= LONGEST_SUBJECT:
        return False
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def shown(name: str) -> str:
    """A field's name as sent, short and printable."""
    return ascii(name[:60])[1:-1]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
