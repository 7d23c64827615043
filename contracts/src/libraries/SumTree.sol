// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The Merkle-sum tree of payouts: a root that fixes who is owed what, and how much that is
/// in all.
/// @notice Twin of proofs/sumtree.py. Every node's hash covers the sums of both its children, so a
/// proof shows not only that a leaf is in the tree but that all leaves together are owed exactly
/// the root's total. (Hashing left + right instead would let a tree owe more than its root says:
/// IACR eprint 2018/1139.)
library SumTree {
    /// @notice One step of a proof: the other child on the way up, and whether it stands on the
    /// left.
    struct Sibling {
        uint128 sum;
        bytes32 hash;
        bool isLeft;
    }

    /// @notice The hash of one account's leaf; its sum is the amount.
    function leafHash(address account, uint128 amount) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x00), account, amount));
    }

    /// @notice The hash of the node over two children.
    function nodeHash(uint128 leftSum, bytes32 leftHash, uint128 rightSum, bytes32 rightHash)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encodePacked(bytes1(0x01), leftSum, leftHash, rightSum, rightHash));
    }

    /// @notice The root that `account` with `amount` and these siblings, from the leaf up, lead to.
    /// @dev Sums that do not fit 128 bits revert (checked arithmetic).
    function rootOf(address account, uint128 amount, Sibling[] calldata proof)
        internal
        pure
        returns (uint128 sum, bytes32 hash)
    {
        sum = amount;
        hash = leafHash(account, amount);
        for (uint256 i = 0; i < proof.length; i++) {
            Sibling calldata other = proof[i];
            hash = other.isLeft
                ? nodeHash(other.sum, other.hash, sum, hash)
                : nodeHash(sum, hash, other.sum, other.hash);
            sum += other.sum;
        }
    }
}
