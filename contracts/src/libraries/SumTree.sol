// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The indexed Merkle-sum tree: a commitment that fixes every leaf's place, and how much all
/// leaves are owed together.
/// @notice Twin of proofs/sumtree.py. Leaves stand in order of first appearance and never move; the
/// shape is that of RFC 9162. Every node's hash covers the sums of both its children, so a proof
/// shows not only that a leaf is in the tree but that all leaves together are owed exactly the
/// root's sum. (Hashing left + right instead would let a tree owe more than its root says: IACR
/// eprint 2018/1139.) The commitment covers the number of leaves too, so which children a proof
/// meets follows from the leaf's index, and a leaf can be shown at one index only.
///
///     leaf       = keccak256(0x00 || content)       contents differ in length from tree to tree
///     node       = keccak256(0x01 || left sum 16 || left hash 32 || right sum 16 || right hash 32)
///     commitment = keccak256(0x02 || size 8 || sum 16 || root's hash 32)
library SumTree {
    /// @notice The proof does not lead from this leaf, at this index, to the commitment.
    error BadProof();

    /// @notice One step of a proof: the other child on the way up.
    struct Sibling {
        uint128 sum;
        bytes32 hash;
    }

    /// @notice Where a leaf stands in a tree of `size` leaves, and the siblings from it up.
    struct Proof {
        uint64 index;
        uint64 size;
        Sibling[] siblings;
    }

    /// @notice What a commitment commits to.
    struct Opening {
        uint64 size;
        uint128 sum;
        bytes32 root;
    }

    /// @notice keccak256(0x02 || size 8 || sum 16 || root's hash 32). The empty tree is all zeros.
    function commitment(uint64 size, uint128 sum, bytes32 root) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x02), size, sum, root));
    }

    /// @notice The commitment that this leaf and its proof lead to.
    function commitmentOf(uint128 amount, bytes32 leaf, Proof calldata proof)
        internal
        pure
        returns (bytes32)
    {
        (uint128 sum, bytes32 root) = rootOf(amount, leaf, proof);
        return commitment(proof.size, sum, root);
    }

    /// @notice The root that this leaf and its proof lead to, as RFC 9162, 2.1.3.2 climbs.
    /// @dev Reverts where sums do not fit 128 bits, and where the proof's length is not that of a
    /// leaf at this index in a tree of this size. In assembly because claims and proofs spend most
    /// of their gas here; test/SumTree.t.sol compares it with a plain tree. What is wrong is
    /// collected, and looked at once.
    function rootOf(uint128 amount, bytes32 leaf, Proof calldata proof)
        internal
        pure
        returns (uint128, bytes32)
    {
        require(proof.index < proof.size, BadProof());
        uint256 index = proof.index;
        uint256 last = proof.size - 1;
        uint256 sum = amount;
        bytes32 root = leaf;
        uint256 wrong = 0;
        Sibling[] calldata siblings = proof.siblings;
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore8(free, 1)
            let end := add(siblings.offset, mul(siblings.length, 64))
            for { let step := siblings.offset } lt(step, end) { step := add(step, 64) } {
                let otherSum := calldataload(step)
                let other := calldataload(add(step, 32))
                wrong := or(wrong, or(shr(128, otherSum), iszero(last)))
                switch or(and(index, 1), eq(index, last))
                case 0 {
                    mstore(add(free, 1), shl(128, sum))
                    mstore(add(free, 17), root)
                    mstore(add(free, 49), shl(128, otherSum))
                    mstore(add(free, 65), other)
                }
                default {
                    mstore(add(free, 1), shl(128, otherSum))
                    mstore(add(free, 17), other)
                    mstore(add(free, 49), shl(128, sum))
                    mstore(add(free, 65), root)
                    for {} and(iszero(and(index, 1)), gt(index, 0)) {} {
                        index := shr(1, index)
                        last := shr(1, last)
                    }
                }
                root := keccak256(free, 97)
                sum := add(sum, otherSum)
                wrong := or(wrong, shr(128, sum))
                index := shr(1, index)
                last := shr(1, last)
            }
        }
        require(wrong == 0 && last == 0, BadProof());
        return (uint128(sum), root);
    }

    /// @notice The root of a tree whose every leaf is at hand: pairs level by level, and whoever has
    /// no neighbour rises alone, which gives the shape of RFC 9162.
    /// @dev Overwrites both arrays.
    function rootOfAll(uint128[] memory sums, bytes32[] memory hashes)
        internal
        pure
        returns (uint128 sum, bytes32 root)
    {
        uint256 count = sums.length;
        if (count == 0) return (0, 0);
        for (; count > 1; count = (count + 1) / 2) {
            for (uint256 i = 0; i < count; i += 2) {
                uint256 to = i / 2;
                if (i + 1 == count) {
                    (sums[to], hashes[to]) = (sums[i], hashes[i]);
                } else {
                    hashes[to] = nodeHash(sums[i], hashes[i], sums[i + 1], hashes[i + 1]);
                    sums[to] = sums[i] + sums[i + 1];
                }
            }
        }
        return (sums[0], hashes[0]);
    }

    /// @notice The hash of the node over two children.
    /// @dev Written in the free memory, which it leaves free: a proof of twenty steps would
    /// otherwise pay for twenty copies.
    function nodeHash(uint128 leftSum, bytes32 left, uint128 rightSum, bytes32 right)
        internal
        pure
        returns (bytes32 hash)
    {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore8(free, 1)
            mstore(add(free, 1), shl(128, leftSum))
            mstore(add(free, 17), left)
            mstore(add(free, 49), shl(128, rightSum))
            mstore(add(free, 65), right)
            hash := keccak256(free, 97)
        }
    }
}
