"""A cluster's run, taken and computed again with DVC and nothing of ours but the repository."""

from __future__ import annotations

import shutil

import pytest

from tests.cluster.audited import LONG, Bank, dvc
from tests.conftest import Home, git
from workflows.loan_approval import pipeline
from workflows.plan import tasks

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]


def test_with_dvc_alone(bank: Bank, auditor: Home) -> None:
    """The commands of docs/auditing.md; the repository has one pipeline, so that none need be named."""
    git(auditor.path, "clone", "-q", str(bank.home.path), "clone")
    git(auditor.path / "clone", "checkout", "-q", bank.commit)
    there = Home(path=auditor.path / "clone", env=auditor.env)
    got = dvc(there, "get-url", f"{bank.url}/exports/{bank.run}/dvc.lock", "dvc.lock")
    assert got.code == 0, got.err
    git(there.path, "add", "dvc.lock")
    assert dvc(there, "remote", "modify", "--local", "s3", "url", bank.url).code == 0
    pulled = dvc(there, "pull", "-r", "s3")
    assert pulled.code == 0, pulled.err
    status = dvc(there, "status")
    assert "Data and pipelines are up to date." in status.out, status.out + status.err
    shutil.rmtree(there.path / "artifacts")
    repeated = dvc(there, "repro", "--force", "--no-run-cache", within=LONG)
    assert repeated.code == 0, repeated.err
    assert repeated.out.count("Running stage") == len(tasks(pipeline))
    git(there.path, "diff", "--exit-code", "dvc.lock")
