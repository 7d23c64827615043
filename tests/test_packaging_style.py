"""How the code reads where no formatter holds it.

One assignment a line, and a long call names what it gives.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine", "bridge", "p2p", "proofs", "factory", "node", "demo")
MAX_POSITIONAL = 5
"""From the next argument on, a call names what it gives."""
CATCHES_ALL = re.compile(r"\s*except\*? (BaseException|Exception)\b|\s*except:")
SHAPING = {"view", "reshape", "permute", "expand"}


def modules() -> list[Path]:
    """Every module of the product."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def find_packed(tree: ast.AST) -> Iterator[int]:
    """Lines of `a, b, c = x, y, z`: three assignments that look like one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            target = node.targets[0]
            if isinstance(target, ast.Tuple) and len(target.elts) > 2:
                yield node.lineno


def find_nameless(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that give many arguments without saying which is which.

    Exempt: shapes of tensors, and what Triton compiles, whose device functions take no names.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and _is_kernel(node):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            given = [each for each in node.args if not isinstance(each, ast.Starred)]
            is_shape = isinstance(node.func, ast.Attribute) and node.func.attr in SHAPING
            if len(given) > MAX_POSITIONAL and not is_shape:
                yield node.lineno
        yield from find_nameless(node)


def _is_kernel(function: ast.FunctionDef) -> bool:
    return any("triton" in ast.unparse(each) for each in function.decorator_list)


def find_unexplained(path: Path) -> Iterator[int]:
    """Lines that catch everything and do not say why beside it."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if CATCHES_ALL.match(line) and "#" not in line:
            yield number


@pytest.mark.parametrize("package", PACKAGES)
def test_whoever_catches_everything_says_why(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in (ROOT / package).rglob("*.py")
        for line in find_unexplained(path)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("find", [find_packed, find_nameless])
def test_no_line_of_the_product_packs_too_much(find: object) -> None:
    assert callable(find)
    found = []
    for path in modules():
        tree = ast.parse(path.read_text())
        found += [f"{path.relative_to(ROOT)}:{line}" for line in find(tree)]
    assert not found, "\n".join(found)


def test_the_two_searches_find_what_they_are_for() -> None:
    assert list(find_packed(ast.parse("a, b, c = 1, 2, 3"))) == [1]
    assert list(find_packed(ast.parse("a, b = b, a\nc, d, e = row"))) == []
    assert list(find_nameless(ast.parse("f(1, 2, 3, 4, 5, 6)"))) == [1]
    assert (
        list(find_nameless(ast.parse("f(1, 2, 3, 4, 5, six=6)\nkernel[grid](1, 2, 3, 4, 5, 6)")))
        == []
    )
