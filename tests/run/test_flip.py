"""One flipped byte, anywhere in what a real run left behind: verification fails and names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Home, home_from
from workflows.prove.verify import verify
from workflows.run import journal, keys
from workflows.run.reader import StoreReader
from workflows.run.session import local_store


@pytest.fixture(scope="module")
def ran(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    scratch = tmp_path_factory.mktemp("ran")
    home = home_from(template, scratch)
    home.run()
    return home


def files(home: Home) -> list[Path]:
    """Everything that the run's proof rests on."""
    tops = (home.path / ".countersign/records", home.path / ".countersign/runs", home.path / ".dvc/cache")
    found = [p for top in tops for p in sorted(top.rglob("*")) if p.is_file()]
    assert len(found) > 12
    return found


def flip(path: Path, at: float, by: int) -> bytes:
    kept = path.read_bytes()
    i = int(at * len(kept))
    path.chmod(0o644)
    path.write_bytes(kept[:i] + bytes([kept[i] ^ by]) + kept[i + 1 :])
    return kept


def names_of(path: Path, kept: bytes) -> set[str]:
    """What a finding may call a file: its digest, its name, or its place in the run's folder."""
    from workflows.prove.digest import of_bytes

    return {of_bytes(kept).sha256, path.name, path.stem, "/".join(path.parts[-3:])}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_byte(ran: Home, data: st.DataObject, at: float, by: int) -> None:
    path = data.draw(st.sampled_from(files(ran)))
    kept = flip(path, at, by)
    try:
        store = local_store(ran.path)
        result = verify(journal.find(store, "@latest"), StoreReader(store), keys.ring(store))
        assert not result.ok
        said = "\n".join(map(str, result.findings))
        assert any(n in said for n in names_of(path, kept)), said
    finally:
        path.write_bytes(kept)


def test_the_command_exits_4_and_names_it(ran: Home) -> None:
    for kind in (".countersign/records", ".dvc/cache"):
        path = next(p for p in files(ran) if kind in str(p) and p.stat().st_size > 10)
        kept = flip(path, 0.5, 1)
        said = ran.ask("verify", "@latest")
        path.write_bytes(kept)
        assert said.code == 4, said.out
        assert any(n in said.out for n in names_of(path, kept))
    assert ran.ask("verify", "@latest").code == 0


def test_the_files_that_people_open_count_too(ran: Home) -> None:
    """What `run` names as evidence lies under `artifacts/`; the store's copies being whole is no comfort to who reads these."""
    for path in sorted((ran.path / "artifacts/toy").rglob("*.*")):
        if path.is_file():
            kept = flip(path, 0.5, 1)
            said = ran.ask("verify", "@latest", "--json")
            path.write_bytes(kept)
            assert said.code == 4, path
            assert [f["where"] for f in said.json["findings"]] == [path.relative_to(ran.path).as_posix()]
    assert ran.ask("verify", "@latest").code == 0


def test_files_of_another_run_are_not_taken_for_changed_ones(home: Home) -> None:
    first = home.run()["run"]
    home.run("--set", "pick.at_least=35")
    assert home.ask("verify", first).code == 0
    (home.path / "artifacts/toy/total.json").unlink()
    assert home.ask("verify", first).code == 0
