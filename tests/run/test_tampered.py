"""A run that somebody changed afterwards, and a bundle that is not what it was: said on the command line, by name, with exit code 4."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Home, home_from
from tests.prove.test_bundle import zipped
from workflows.prove import bundle


@pytest.fixture(scope="module")
def ran(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str, bytes]:
    """A checkout with a run that verifies, which the tests copy; the run; its bundle."""
    scratch = tmp_path_factory.mktemp("ran")
    home = home_from(template, scratch)
    run = home.run()["run"]
    assert home.ask("verify", run).code == 0
    assert home.ask("bundle", run, "-o", "it.bundle").code == 0
    return home, run, home.read("it.bundle")


@pytest.fixture
def copy(ran: tuple[Home, str, bytes], tmp_path: Path) -> Home:
    home, _, _ = ran
    shutil.copytree(home.path, tmp_path / "repo", symlinks=True)
    return replace(home, path=tmp_path / "repo")


def record_of(folder: Path, step: str) -> Path:
    return folder.parents[1] / "records" / (folder / step).read_text().strip()


def drop_record(folder: Path) -> None:
    record_of(folder, "steps/pick/1").unlink()


def drop_name(folder: Path) -> None:
    (folder / "steps/pick/1").unlink()


def add(folder: Path) -> None:
    shutil.copy(folder / "steps/pick/1", folder / "steps/pick/2")


def reorder(folder: Path) -> None:
    a, b = folder / "steps/work@a/1", folder / "steps/work@b/1"
    there = a.read_bytes()
    for path, data in ((a, b.read_bytes()), (b, there)):
        path.chmod(0o644)
        path.write_bytes(data)


def rename(folder: Path) -> None:
    (folder / "steps/pick").rename(folder / "steps/choose")


def swap_content(folder: Path) -> None:
    a, b = record_of(folder, "steps/work@a/1"), record_of(folder, "steps/work@b/1")
    a.chmod(0o644)
    a.write_bytes(b.read_bytes())


def unseal(folder: Path) -> None:
    (folder / "root").unlink()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop_record, ["record pick/1 (", "missing, or cannot be read"]),
        (drop_name, ["/steps/pick/1: missing; the seal has record "]),
        (add, ["/steps/pick/2: stands in the run's folder, but not in its seal"]),
        (reorder, ["/steps/work@a/1: it names record ", "/steps/work@b/1: it names record "]),
        (rename, ["/steps/choose/1: stands in the run's folder", "/steps/pick/1: missing"]),
        (swap_content, ["record work@a/1 (", "changed: its bytes have sha256 "]),
        (unseal, ["the run has no seal"]),
    ],
)
def test_a_changed_chain_of_records_is_named(
    ran: tuple[Home, str, bytes], copy: Home, change: Callable[[Path], None], named: list[str]
) -> None:
    _, run, _ = ran
    change(copy.path / ".countersign/runs" / run)
    said = copy.ask("verify", run)
    assert said.code == 4, said.out + said.err
    for part in named:
        assert part in said.out + said.err
    assert "Traceback" not in said.err


def test_a_run_under_the_name_of_another_is_named(ran: tuple[Home, str, bytes], copy: Home) -> None:
    _, run, _ = ran
    runs = copy.path / ".countersign/runs"
    (runs / run).rename(runs / "toy-0123456789ab")
    said = copy.ask("verify", "toy-0123456789ab")
    assert said.code == 4, said.out + said.err
    assert f"toy-0123456789ab/root: it names the seal of another run, {run}" in said.out


# --- Bundles

ROOTED = "/evil-of-a-bundle"


def climbing(data: bytes) -> bytes:
    return zipped({**bundle.read(data, "it").members, "../evil": b"evil"})


def rooted(data: bytes) -> bytes:
    return zipped({**bundle.read(data, "it").members, ROOTED: b"evil"})


def first_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def last_byte_gone(data: bytes) -> bytes:
    return data[:-1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (climbing, "'../evil': a member with a name that could lie outside"),
        (rooted, f"'{ROOTED}': a member with a name that could lie outside"),
        (first_half, ""),
        (last_byte_gone, ""),
        (lambda _: b"", ""),
    ],
)
@pytest.mark.parametrize("words", [("verify",), ("reproduce", "--into", "again")], ids=["verify", "reproduce"])
def test_a_bundle_that_climbs_out_or_is_cut_short_is_refused_and_nothing_is_written(
    ran: tuple[Home, str, bytes], tmp_path: Path, change: Callable[[bytes], bytes], named: str, words: tuple[str, ...]
) -> None:
    home, _, data = ran
    before = sorted(home.path.parent.rglob("*"))
    (tmp_path / "bad.bundle").write_bytes(change(data))
    said = home.ask(words[0], str(tmp_path / "bad.bundle"), *words[1:])
    assert said.code == 4, said.out + said.err
    assert f"error: bad.bundle: {named}" in said.err
    assert "Traceback" not in said.err
    assert sorted(home.path.parent.rglob("*")) == before
    assert [p.name for p in tmp_path.iterdir()] == ["bad.bundle"]
    assert not Path(ROOTED).exists()
