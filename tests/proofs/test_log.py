"""The log against RFC 9162's definitions, written down as they stand there, for every size to
130.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.merkle import (
    EMPTY_ROOT,
    Frontier,
    Log,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

SIZES = range(131)
LEAVES = [leaf_hash(bytes([number])) for number in SIZES]
LOG = Log(LEAVES)


def k(n: int) -> int:
    return max(1 << bit for bit in range(n.bit_length()) if 1 << bit < n)


def mth(d: list[bytes]) -> bytes:
    if not d:
        return EMPTY_ROOT
    return d[0] if len(d) == 1 else node_hash(mth(d[: k(len(d))]), mth(d[k(len(d)) :]))


def path(m: int, d: list[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    half = k(len(d))
    return (
        [*path(m, d[:half]), mth(d[half:])]
        if m < half
        else [*path(m - half, d[half:]), mth(d[:half])]
    )


def subproof(m: int, d: list[bytes], complete: bool) -> list[bytes]:
    if m == len(d):
        return [] if complete else [mth(d)]
    half = k(len(d))
    if m <= half:
        return [*subproof(m, d[:half], complete), mth(d[half:])]
    return [*subproof(m - half, d[half:], False), mth(d[:half])]


@pytest.mark.parametrize("size", SIZES)
def test_roots_and_frontiers_are_the_rfcs(size: int) -> None:
    root = mth(LEAVES[:size])
    assert LOG.root(size) == root
    assert Frontier().append(LEAVES[:size]).root == root
    assert Frontier().append(LEAVES[: size // 3]).append(LEAVES[size // 3 : size]).root == root


@pytest.mark.parametrize("size", [*range(1, 34), 63, 64, 65, 127, 128, 129, 130])
def test_every_inclusion_proof_is_the_rfcs_and_fits_one_place_only(size: int) -> None:
    root = LOG.root(size)
    for index in range(size):
        proof = LOG.prove_inclusion(index, size)
        assert proof == path(index, LEAVES[:size])
        assert verify_inclusion(LEAVES[index], index, size, proof, root=root)
        for other in {0, index - 1, index + 1, size - 1} - {index}:
            assert not verify_inclusion(LEAVES[index], other, size, proof, root=root)
        assert not verify_inclusion(LEAVES[(index + 1) % 131], index, size, proof, root=root)
        assert not verify_inclusion(LEAVES[index], index, size, [*proof, bytes(32)], root=root)
        assert not proof or not verify_inclusion(LEAVES[index], index, size, proof[:-1], root=root)


def test_every_consistency_proof_to_130_is_the_rfcs_and_verifies() -> None:
    for size in SIZES:
        for old in range(size + 1):
            proof = LOG.prove_consistency(old, size)
            if 0 < old < size and (size < 40 or size > 125):
                assert proof == subproof(old, LEAVES[:size], True)
            assert verify_consistency(old, LOG.root(old), size, LOG.root(size), path=proof)


@given(st.integers(0, 130), st.integers(0, 130), st.integers(0, 30), st.integers(0, 255))
def test_consistency_proof_with_anything_changed_fails(
    old: int, size: int, place: int, bit: int
) -> None:
    old, size = min(old, size), max(old, size)
    proof = LOG.prove_consistency(old, size)
    old_root = LOG.root(old)
    root = LOG.root(size)
    flip = (1 << bit).to_bytes(32, "big")

    def other(value: bytes) -> bytes:
        return bytes(left ^ right for left, right in zip(value, flip, strict=True))

    assert not verify_consistency(old, other(old_root), size, root, path=proof)
    if old:
        assert not verify_consistency(old, old_root, size, other(root), path=proof)
    assert not verify_consistency(old, old_root, size, root, path=[*proof, flip])
    assert not verify_consistency(size + 1, old_root, size, root, path=proof)
    if proof:
        changed = list(proof)
        changed[place % len(proof)] = other(changed[place % len(proof)])
        assert not verify_consistency(old, old_root, size, root, path=changed)
        assert not verify_consistency(old, old_root, size, root, path=proof[:-1])


def test_log_that_rewrote_one_entry_is_not_consistent() -> None:
    rewritten = Log([*LEAVES[:3], leaf_hash(b"other"), *LEAVES[4:]])
    for old in range(4, 40):
        assert not verify_consistency(
            old, LOG.root(old), 50, rewritten.root(50), path=rewritten.prove_consistency(old, 50)
        )


def test_leaf_is_no_node() -> None:
    """Without the prefixes, a node's two hashes could be passed off as an entry."""
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, 132)])
def test_what_is_not_there_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(IndexError):
        LOG.prove_inclusion(index, size)
    with pytest.raises(IndexError):
        LOG.prove_consistency(index, index - 1)


def test_empty_path_connects_no_two_different_logs() -> None:
    assert not verify_consistency(3, LOG.root(3), 5, LOG.root(5), path=[])
    assert not verify_consistency(4, LOG.root(4), 5, LOG.root(5), path=[])
