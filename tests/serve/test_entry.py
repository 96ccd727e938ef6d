"""A record that is put together from texts is the record that canonical JSON writes, byte for byte."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve.world import SUBJECT_KEY
from workflows.prove import canonical
from workflows.serve import entry
from workflows.serve.contract import Application, Contract, Feature
from workflows.serve.decide import Decision, Reason
from workflows.serve.entry import Keeper, Lineage, Writer

DECISION, AT = "0123456789ab-019ab4d5a00-0123456789abcdef", "2026-03-01T12:00:00.000000+00:00"
KEEPER = Keeper(SUBJECT_KEY)
LINEAGE = Lineage(**{n: f"{n} ü%s" for n in ("variant", "run", "root", "model", "policy", "contract")})

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers() | st.integers(-(2**1000), 2**1000) | st.floats(allow_nan=False, allow_infinity=False) | st.none()
finite = st.floats(-1e9, 1e9)
reasons = st.builds(Reason, code=text, words=text, feature=text, contribution=finite)
decisions = st.builds(
    Decision, score=finite, decision=st.sampled_from(["approved", "declined"]), reasons=st.lists(reasons, max_size=3).map(tuple)
)


def feature(name: str, *, sealed: bool) -> Feature:
    return Feature(name=name, type="number", unit="", words="", reason_code="", reason_words="", may_be_missing=True, sealed=sealed)


@settings(deadline=None)
@given(
    features=st.dictionaries(text, st.tuples(st.booleans(), numbers), max_size=6),
    groups=st.dictionaries(text, text, max_size=2),
    subject=text,
    explain=st.booleans(),
    answer=decisions,
    trace=st.none() | text,
    shadows=st.lists(st.dictionaries(text, text | finite, max_size=3), max_size=2),
    same=st.tuples(text, st.dictionaries(text, text | st.integers(), max_size=3)),
)
def test_a_record_is_what_canonical_json_writes(
    features: dict[str, tuple[bool, Any]],
    groups: dict[str, str],
    subject: str,
    *,
    explain: bool,
    answer: Decision,
    trace: str | None,
    shadows: list[dict[str, Any]],
    same: tuple[str, dict[str, Any]],
) -> None:
    features = {n: f for n, f in features.items() if not n.startswith("group:")}  # LightGBM has no names with a colon
    contract = Contract(
        features=tuple(feature(n, sealed=s) for n, (s, _) in features.items()),
        names=frozenset(features),
        ratios=(),
        most_reasons=4,
        needs=tuple(groups),
        groups={n: frozenset([w]) for n, w in groups.items()},
    )
    application = Application(subject=subject, values=tuple(v for _, v in features.values()), groups=groups, explain=explain)
    written = Writer(contract, LINEAGE, KEEPER, *same).record(DECISION, AT, application, answer, shadows=shadows, trace=trace)

    open_ = {n: v for n, (s, v) in features.items() if not s}
    sealed = {n: v for n, (s, v) in features.items() if s} | {f"group:{n}": w for n, w in groups.items()}
    token = canonical.decode(written)["asked"]["sealed"]  # chance is in it
    assert (KEEPER.open(token, DECISION) if token else {}) == sealed
    plain = {
        "id": DECISION,
        "at": AT,
        "pipeline": same[0],
        "release": same[1],
        "by": LINEAGE.to_json(),
        "asked": {
            "subject": KEEPER.subject(subject),
            "features": open_,
            "sealed": token,
            "digest": KEEPER.features(canonical.text(open_ | sealed)),
            "explain": explain,
        },
        "answer": entry.answered(answer),
        "shadows": shadows,
        "trace": trace,
    }
    assert written == canonical.encode(plain)
    again = entry.application_of(canonical.decode(written), contract, KEEPER)
    assert (again.values, again.groups, again.explain) == (application.values, groups, explain)
