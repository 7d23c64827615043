"""What is called verified was verified: one function makes each such value, and no other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("demo", "engine", "node", "p2p", "proofs")
MAKERS = {
    "VerifiedReceipt": {("proofs/receipt.py", "verify_receipt")},
    "VerifiedEnvelope": {("proofs/envelope.py", "open_envelope")},
}


def makers_of(kind: str, tree: ast.AST, within: str = "") -> set[str]:
    """The functions in which a class is called or copied under another name."""
    found = set[str]()
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else within
        if isinstance(node, ast.Call) and kind in ast.unparse(node.func).split("."):
            found.add(inside)
        if isinstance(node, ast.Assign) and kind in ast.unparse(node.value).split("."):
            found.add(inside)
        found |= makers_of(kind, node, inside)
    return found


@pytest.mark.parametrize("kind", list(MAKERS))
def test_only_its_check_makes_a_verified_value(kind: str) -> None:
    found = {
        (str(path.relative_to(ROOT)), maker)
        for package in PRODUCT
        for path in (ROOT / package).rglob("*.py")
        for maker in makers_of(kind, ast.parse(path.read_text()))
    }
    assert found == MAKERS[kind]


def test_the_search_finds_what_it_is_for() -> None:
    assert makers_of("V", ast.parse("def f():\n    return [V(1)]")) == {"f"}
    assert makers_of("V", ast.parse("def f():\n    return receipt.V(1)")) == {"f"}
    assert makers_of("V", ast.parse("make = receipt.V")) == {""}
    assert makers_of("V", ast.parse("def f(v: V) -> V | None:\n    return check(v)")) == set()
