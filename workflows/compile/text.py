"""YAML that every reader takes for the same thing: what could be read as anything but a string is quoted."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from workflows.errors import CountersignError, Problem

PLAIN = re.compile(r"[A-Za-z/][\w./@-]*")
# What YAML 1.1 (Kubernetes, PyYAML) or 1.2 (DVC) reads as something other than a string.
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}


def dump(value: Mapping[str, Any], comment: str) -> str:
    """`value` as YAML under a comment. The order of keys is kept; the text is asserted to read back as `value`."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1_000_000  # no line is folded: a folded command is hard to read and to search for
    out = io.StringIO()
    yaml.dump(_quoted(value), out)
    text = f"# {comment}\n{out.getvalue()}"
    if load(text) != value:
        raise CountersignError(Problem(what="the generated YAML does not read back as what it was made from", where=comment))
    return text


def kustomization(files: Iterable[str], comment: str) -> str:
    """What `kubectl apply -k` reads of a folder."""
    return dump({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": sorted(files)}, comment)


def load(text: str) -> Any:
    """What a YAML 1.2 reader makes of it."""
    return YAML(typ="safe", pure=True).load(text)


def _quoted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_quoted(k): _quoted(v) for k, v in value.items()}
    if isinstance(value, LiteralScalarString):  # a script, to be read as lines
        return value
    if isinstance(value, str):
        words = value.split(" ")
        plain = all(PLAIN.fullmatch(w) for w in words) and value.lower() not in WORDS
        return value if plain else DoubleQuotedScalarString(value)
    if isinstance(value, Sequence):
        return [_quoted(v) for v in value]
    return value
