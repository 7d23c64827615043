// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SumTree} from "../src/libraries/SumTree.sol";

/// @title The tree whose proofs `SumTree` checks, built the slow and plain way.
/// @dev Accounts and amounts are given in order; the split is that of RFC 9162, the largest power
/// of two below the number of leaves.
library PayoutTree {
    /// @dev The hash and the sum of the leaves from `start` up to `end`, which is not included.
    function rootOf(
        address[] memory accounts,
        uint128[] memory amounts,
        uint256 start,
        uint256 end
    ) internal pure returns (uint128 sum, bytes32 hash) {
        if (end - start == 1) {
            return (amounts[start], SumTree.leafHash(accounts[start], amounts[start]));
        }
        uint256 middle = start + _split(end - start);
        (uint128 leftSum, bytes32 left) = rootOf(accounts, amounts, start, middle);
        (uint128 rightSum, bytes32 right) = rootOf(accounts, amounts, middle, end);
        return (leftSum + rightSum, SumTree.nodeHash(leftSum, left, rightSum, right));
    }

    /// @dev The siblings of one leaf, from the leaf up.
    function prove(address[] memory accounts, uint128[] memory amounts, uint256 index)
        internal
        pure
        returns (SumTree.Sibling[] memory proof)
    {
        SumTree.Sibling[] memory path = new SumTree.Sibling[](64);
        uint256 start = 0;
        uint256 end = accounts.length;
        uint256 depth = 0;
        while (end - start > 1) {
            uint256 middle = start + _split(end - start);
            bool isLeft = index >= middle; // the sibling's side, not the leaf's
            (uint128 sum, bytes32 hash) = isLeft
                ? rootOf(accounts, amounts, start, middle)
                : rootOf(accounts, amounts, middle, end);
            path[depth++] = SumTree.Sibling(sum, hash, isLeft);
            if (isLeft) start = middle;
            else end = middle;
        }
        proof = new SumTree.Sibling[](depth);
        for (uint256 i = 0; i < depth; i++) {
            proof[i] = path[depth - 1 - i];
        }
    }

    function _split(uint256 count) private pure returns (uint256 power) {
        power = 1;
        while (2 * power < count) power *= 2;
    }
}
