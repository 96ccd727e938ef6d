"""A run in one file: strict in form, and checked alike by the project and by a script that shares no code with it."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prove.chain import OTHER, PRIVATE, RUN, SCRIPT, VERDICTS, build, but, ring, script
from workflows.errors import NotVerified
from workflows.prove import bundle, canonical
from workflows.prove.bundle import verify_bundle
from workflows.prove.signature import Signer, public_pem

CHAIN = build()
DATA = CHAIN.packed(**{"artifacts/toy/verdicts.json": canonical.encode({"gates": VERDICTS}), "manifests/dvc.yaml": b"stages: {}\n"})
TRUSTED = {Signer(PRIVATE).keyid: PRIVATE.public_key()}


def refused(data: bytes) -> str:
    """Both verifiers must refuse these bytes; what ours says."""
    said = ""
    try:
        result = verify_bundle(bundle.read(data, "it"), ring(PRIVATE))
        assert not result.ok
        said = "\n".join(map(str, result.findings))
    except NotVerified as error:
        said = str(error)
    assert script.check(data, TRUSTED)[2], f"the script lets pass: {said}"
    return said


def test_a_sound_bundle_passes_both() -> None:
    result = verify_bundle(bundle.read(DATA, "it"))
    assert result.ok
    assert (len(result.records), result.checked, result.elsewhere) == (4, 1, 5)
    assert script.check(DATA)[2] == []
    assert bundle.read(DATA, "it").run == RUN


def test_a_result_of_another_image_passes_both() -> None:
    data = build({"part@a": but(image="9" * 64)}).packed(**{"manifests/dvc.yaml": b"stages: {}\n"})
    assert verify_bundle(bundle.read(data, "it")).ok
    assert script.check(data)[2] == []


def test_the_same_run_gives_the_same_bytes() -> None:
    members = bundle.read(DATA, "it").members
    turned = {n: members[n] for n in reversed(list(members)) if n != bundle.INDEX}
    root = CHAIN.root(RUN)
    assert root
    assert bundle.pack(pipeline="toy", run=RUN, root=root, members=turned) == DATA


def test_any_zip_program_can_look_into_it(tmp_path: Path) -> None:
    (tmp_path / "it.zip").write_bytes(DATA)
    with zipfile.ZipFile(tmp_path / "it.zip") as archive:
        assert archive.testzip() is None
        assert f"runs/{RUN}/root" in archive.namelist()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(DATA) - 1))
def test_cut_short_anywhere(end: int) -> None:
    refused(DATA[:end])


@settings(max_examples=250, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_one_flipped_byte_anywhere(at: int, by: int) -> None:
    refused(DATA[:at] + bytes([DATA[at] ^ by]) + DATA[at + 1 :])


@pytest.mark.parametrize("extra", [b"\0", b"PK\x05\x06" + bytes(18), b"#!/bin/sh\n"])
def test_something_before_or_after_it(extra: bytes) -> None:
    refused(DATA + extra)
    refused(extra + DATA)


def zipped(members: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda _: None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o100644 << 16
            change(info)
            archive.writestr(info, data)
    return out.getvalue()


CLIMBING = [
    "../evil",
    "/etc/passwd",
    "runs/../../evil",
    "runs/./x",
    "C:/evil",
    "a\\..\\evil",
    "runs//x",
    ".hidden",
    "runs/",
    "-rf",
    "rúns/x",
]


@pytest.mark.parametrize("name", CLIMBING)
def test_a_path_that_climbs_out_or_hides(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "could lie outside" in refused(zipped({**bundle.read(DATA, "it").members, name: b"evil"}))
    assert list(tmp_path.iterdir()) == []


def test_a_link(tmp_path: Path) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        if info.filename == "manifests/dvc.yaml":
            info.external_attr = 0o120777 << 16

    assert "a link, or no plain file" in refused(zipped(dict(bundle.read(DATA, "it").members), link))
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_unpacks_to_more_than_there_is() -> None:
    def squeeze(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    assert "compressed or encrypted" in refused(zipped({"bundle.json": b"{}", "artifacts/x": bytes(10_000_000)}, squeeze))


def test_two_members_of_one_name() -> None:
    file = io.BytesIO(DATA)
    info = zipfile.ZipInfo("manifests/dvc.yaml")
    info.external_attr = 0o100644 << 16
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(info, b"other")
    assert "two members of this name" in refused(file.getvalue())


def repacked(change: Callable[[dict[str, bytes]], object], **how: str) -> bytes:
    """Packed anew by somebody who knows the format, after a change."""
    members = {n: d for n, d in bundle.read(DATA, "it").members.items() if n != bundle.INDEX}
    change(members)
    given = {"pipeline": "toy", "run": RUN, "root": CHAIN.root(RUN) or "", **how}
    return bundle.pack(members=members, **given)


def drop(name: str) -> Callable[[dict[str, bytes]], object]:
    return lambda m: m.pop(name)


def put(name: str, data: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda m: m.update({name: data})


RECORD = f"records/{CHAIN.written['make'][1]}"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (drop(RECORD), "record make/1"),
        (drop(f"runs/{RUN}/steps/make/1"), "steps/make/1: missing"),
        (drop(f"runs/{RUN}/root"), "has no seal"),
        (drop(f"keys/{Signer(PRIVATE).keyid}.pem"), ""),
        (put("records/" + "0" * 64, b"{}"), "a record that nothing in the run names"),
        (put("artifacts/toy/verdicts.json", b"{}"), "artifacts/toy/verdicts.json: not what the run made"),
        (put("artifacts/toy/other.json", b"{}"), "expected nothing of this name"),
        (put("runs/other-0123456789ab/root", b"x"), "does not belong into the bundle"),
        (put("notes/read.me", b"x"), "does not belong into the bundle"),
        (put(RECORD, b"{}"), "record make/1"),
    ],
)
def test_a_bundle_packed_anew_after_a_change(change: Callable[[dict[str, bytes]], object], expected: str) -> None:
    data = repacked(change)
    if expected:
        assert expected in refused(data)
    else:  # its own key is gone: with the key given it still verifies, without it nothing is trusted
        assert verify_bundle(bundle.read(data, "it"), ring(PRIVATE)).ok
        assert not verify_bundle(bundle.read(data, "it")).ok
        assert script.check(data)[2]


@pytest.mark.parametrize("how", [{"root": "0" * 64}, {"pipeline": "other"}, {"run": "toy-999999999999"}])
def test_an_index_that_says_something_else(how: dict[str, str]) -> None:
    refused(repacked(lambda _: None, **how))


def test_keys_of_somebody_else() -> None:
    result = verify_bundle(bundle.read(DATA, "it"), ring(OTHER))
    assert "signed by a key that is not at hand" in str(result.findings[0])
    assert "not at hand" in script.check(DATA, {Signer(OTHER).keyid: OTHER.public_key()})[2][0]


def test_a_key_under_another_keys_name() -> None:
    name = f"keys/{Signer(PRIVATE).keyid}.pem"
    data = repacked(put(name, public_pem(OTHER.public_key())))
    assert "it holds another key" in str(verify_bundle(bundle.read(data, "it")).findings[0])
    assert "it holds another key" in script.check(data)[2][0]


def test_larger_than_a_bundle_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_SIZE", 1000)
    with pytest.raises(NotVerified, match="larger than a bundle may be"):
        bundle.read(DATA, "it")


def test_noise_is_no_bundle() -> None:
    rng = random.Random(3)  # noqa: S311 - noise, no secret
    for size in (0, 1, 22, 1000):
        refused(rng.randbytes(size))
    refused(b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 65535, 65535, 2**32 - 1, 0, 0))


# --- the script on its own, as an auditor has it


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The script as a copy in an empty folder, isolated from the project and everything else in the environment."""
    shutil.copy(SCRIPT, tmp_path / "verify_bundle.py")
    (tmp_path / "it.bundle").write_bytes(DATA)
    (tmp_path / "ours.pem").write_bytes(public_pem(PRIVATE.public_key()))
    (tmp_path / "other.pem").write_bytes(public_pem(OTHER.public_key()))

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        given = [sys.executable, "-I", "verify_bundle.py", *words]
        return subprocess.run(given, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)

    return ask


def test_alone_it_verifies_and_says_whose_keys_it_trusted(alone: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = alone("it.bundle", "--key", "ours.pem", "--root", CHAIN.root(RUN) or "")
    assert done.returncode == 0, done.stderr
    assert f"verified {RUN}: 4 records" in done.stdout
    assert "given with --key" in done.stdout
    assert "ask its owner" in alone("it.bundle").stdout


def test_alone_it_says_who_submitted_the_run(alone: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    (tmp_path / "submitted.bundle").write_bytes(build(seal=but(submitter="vera@bank")).packed())
    assert "submitted  by vera@bank" in alone("submitted.bundle").stdout
    assert "submitted" not in alone("it.bundle").stdout


def test_alone_it_refuses(alone: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    (tmp_path / "bad.bundle").write_bytes(DATA[:-1] + b"x")
    for words, code, message in [
        (("bad.bundle",), 4, "not verified"),
        (("it.bundle", "--key", "other.pem"), 4, "not at hand"),
        (("it.bundle", "--root", "0" * 64), 4, "the root is"),
        (("none.bundle",), 2, "No such file"),
        (("it.bundle", "--key", "verify_bundle.py"), 2, "not a public key"),
        ((), 2, "usage"),
    ]:
        done = alone(*words)
        assert (done.returncode, message in done.stdout + done.stderr) == (code, True), (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr


def test_it_imports_nothing_but_the_standard_library_and_cryptography() -> None:
    import ast

    names = {
        (n.module if isinstance(n, ast.ImportFrom) else a.name) or ""
        for n in ast.walk(ast.parse(SCRIPT.read_text()))
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    }
    assert {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) == {"cryptography"}
