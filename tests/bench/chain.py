"""A chain of trivial steps, told to each contestant in its own words: every step adds one to the number before it."""

from __future__ import annotations

from pathlib import Path

from harness import git, project

STEPS = '''"""Trivial steps."""

from __future__ import annotations

from typing import NamedTuple

from steps.types import Report
'''

DECLARATION = """from workflows.declare import Artifact, Kind, Pipeline, Step

made = [Artifact(name=f"n{{i}}", kind=Kind.REPORT) for i in range({n})]

pipeline = Pipeline(
    name="chain",
    steps=tuple(
        Step(name=f"step{{i}}", run=f"steps.chain:step{{i}}", inputs=tuple(made[i - 1 : i]) if i else (), outputs=(made[i],))
        for i in range({n})
    ),
    results=(made[-1],),
)
"""


def _step(i: int) -> str:
    before, value = ("", "0") if i == 0 else (f"*, n{i - 1}: Report", f'n{i - 1}["n"] + 1')
    return (
        f"\n\nclass Made{i}(NamedTuple):\n    n{i}: Report\n\n\ndef step{i}({before}) -> Made{i}:\n    return Made{i}({{'n': {value}}})\n"
    )


def ours(folder: Path, n: int) -> Path:
    return project(folder, "chain", STEPS + "".join(_step(i) for i in range(n)), DECLARATION.format(n=n))


def ours_through_dvc(folder: Path, n: int) -> Path:
    """What `countersign compile` writes for this pipeline, by hand."""
    ours(folder, n)
    lines = ["stages:"]
    for i in range(n):
        lines += [f"  chain-step{i}:", f"    cmd: python -m workflows.run.driver chain step{i}", "    deps:", "    - steps/chain.py"]
        lines += ["    - requirements.lock", *([f"    - artifacts/chain/n{i - 1}.json"] if i else [])]
        lines += ["    outs:", f"    - artifacts/chain/n{i}.json"]
    return _dvc(folder, lines)


def plain_dvc(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    lines = ["stages:"]
    for i in range(n):
        lines += [f"  step{i}:", f"    cmd: {_shell(i)}", *(["    deps:", f"    - n{i - 1}"] if i else []), "    outs:", f"    - n{i}"]
    return _dvc(folder, lines)


def _shell(i: int) -> str:
    value = "0" if i == 0 else f"int(open('n{i - 1}').read()) + 1"
    return f"python -c \"print({value}, file=open('n{i}', 'w'))\""


def _dvc(folder: Path, lines: list[str]) -> Path:
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    return folder


def snakemake(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    rules = [f"rule all:\n    input: 'n{n - 1}'\n"]
    for i in range(n):
        wants = f"    input: 'n{i - 1}'\n" if i else ""
        rules.append(f"rule step{i}:\n{wants}    output: 'n{i}'\n    shell: '''{_shell(i)}'''\n")
    (folder / "Snakefile").write_text("\n".join(rules))
    return folder


def metaflow(folder: Path, n: int) -> Path:
    """Metaflow wants a first step called start and a last one called end."""
    folder.mkdir(parents=True)
    names = ["start", *(f"step{i}" for i in range(1, n - 1)), "end"]
    lines = ["from metaflow import FlowSpec, step", "", "", "class Chain(FlowSpec):"]
    for i, name in enumerate(names):
        lines += ["    @step", f"    def {name}(self):", "        self.n = 0" if i == 0 else "        self.n += 1"]
        lines += [f"        self.next(self.{names[i + 1]})", ""] if i + 1 < len(names) else [""]
    (folder / "flow.py").write_text("\n".join([*lines, "", "if __name__ == '__main__':", "    Chain()", ""]))
    return folder


def redun(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    lines = ["from redun import task", "", "redun_namespace = 'chain'", ""]
    for i in range(n):
        lines += ["@task()", f"def step{i}({'n' if i else ''}):", f"    return {'n + 1' if i else '0'}", ""]
    lines += ["@task()", "def main():", "    n = step0()", *(f"    n = step{i}(n)" for i in range(1, n)), "    return n", ""]
    (folder / "flow.py").write_text("\n".join(lines))
    return folder


def kedro(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "flow.py").write_text(
        f"""from kedro.io import DataCatalog
from kedro.pipeline import node, pipeline
from kedro.runner import SequentialRunner

def first():
    return 0

def add(n):
    return n + 1

nodes = [node(first, None, "n0", name="step0")]
nodes += [node(add, f"n{{i - 1}}", f"n{{i}}", name=f"step{{i}}") for i in range(1, {n})]
SequentialRunner().run(pipeline(nodes), DataCatalog())
"""
    )
    return folder
