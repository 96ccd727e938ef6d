"""Digests: one pass, names bound to content, no two things with one pre-image."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.prove import digest
from workflows.prove.digest import CHUNK, SMALL, of_bytes, of_stream, of_tree, tagged

parts = st.lists(st.binary(max_size=6), max_size=4)


@pytest.mark.parametrize("size", [0, 1, CHUNK, SMALL - 1, SMALL, SMALL + 1, SMALL + CHUNK, SMALL + CHUNK + 1, 5 * CHUNK + 3])
def test_a_stream_has_the_digests_of_its_bytes_and_is_copied_whole(size: int) -> None:
    data = bytes(i * 31 % 251 for i in range(1009)) * (size // 1009 + 1)
    data = data[:size]
    sink = io.BytesIO()
    got = of_stream(io.BytesIO(data), sink)
    assert got == of_bytes(data)
    assert (got.sha256, got.md5, got.size) == (hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest(), size)  # noqa: S324
    assert sink.getvalue() == data
    assert of_stream(io.BytesIO(data)) == got


@given(parts, parts)
def test_different_parts_have_different_digests(a: list[bytes], b: list[bytes]) -> None:
    """Length before each part: moving a byte from one part to the next is a different thing."""
    assert (tagged("t", *a) == tagged("t", *b)) == (a == b)


def test_a_tag_is_part_of_the_digest() -> None:
    assert tagged("a", "b") != tagged("b", "b")
    assert tagged("a", "b") != tagged("ab")


def test_the_pre_image_is_what_the_docs_say() -> None:
    pre = b"".join(len(p).to_bytes(8, "big") + p for p in (b"countersign:v1:tag", b"one", b""))
    assert tagged("tag", "one", b"") == hashlib.sha256(pre).hexdigest()


files = st.dictionaries(st.text(max_size=4), st.sampled_from(["0" * 64, "1" * 64, "2" * 64]), min_size=1, max_size=4)


@given(files, st.randoms())
def test_a_trees_order_changes_nothing(tree: dict[str, str], random: object) -> None:
    listed = list(tree.items())
    random.shuffle(listed)  # type: ignore[attr-defined]
    assert of_tree(listed) == of_tree(tree.items())


@given(files, files)
def test_a_tree_binds_names_to_content(a: dict[str, str], b: dict[str, str]) -> None:
    assert (of_tree(a.items()) == of_tree(b.items())) == (a == b)


def test_a_path_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        of_tree([("a", "0" * 64), ("a", "0" * 64)])


def test_tags_in_use_are_all_on_the_page() -> None:
    """Whoever adds a pre-image adds it to docs/hashing.md."""
    import re
    from pathlib import Path

    root = Path(digest.__file__).parents[2]
    used = {t for p in (root / "workflows").rglob("*.py") for t in re.findall(r'(?<!def )\btagged\(\s*"([a-z-]+)"', p.read_text())}
    page = (root / "docs/hashing.md").read_text()
    assert used
    assert {t for t in used if f"`{t}`" not in page} == set()
