// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SumTree} from "../src/libraries/SumTree.sol";

/// @title The trees whose proofs `SumTree` checks, built the slow and plain way.
/// @dev Leaves are given by their sums and hashes; the split is that of RFC 9162, the largest power
/// of two below the number of leaves.
library Trees {
    function rootOf(uint128[] memory sums, bytes32[] memory hashes, uint256 start, uint256 end)
        internal
        pure
        returns (uint128 sum, bytes32 hash)
    {
        if (end == start) return (0, 0);
        if (end - start == 1) return (sums[start], hashes[start]);
        uint256 middle = start + split(end - start);
        (uint128 leftSum, bytes32 left) = rootOf(sums, hashes, start, middle);
        (uint128 rightSum, bytes32 right) = rootOf(sums, hashes, middle, end);
        return (
            leftSum + rightSum,
            keccak256(abi.encodePacked(bytes1(0x01), leftSum, left, rightSum, right))
        );
    }

    function open(uint128[] memory sums, bytes32[] memory hashes)
        internal
        pure
        returns (SumTree.Opening memory)
    {
        (uint128 sum, bytes32 root) = rootOf(sums, hashes, 0, sums.length);
        return SumTree.Opening(uint64(sums.length), sum, root);
    }

    function commitment(SumTree.Opening memory opening) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x02), opening.size, opening.sum, opening.root));
    }

    function prove(uint128[] memory sums, bytes32[] memory hashes, uint256 index)
        internal
        pure
        returns (SumTree.Proof memory)
    {
        SumTree.Sibling[] memory path = new SumTree.Sibling[](64);
        uint256 start = 0;
        uint256 end = sums.length;
        uint256 depth = 0;
        while (end - start > 1) {
            uint256 middle = start + split(end - start);
            (uint128 sum, bytes32 hash) = index >= middle
                ? rootOf(sums, hashes, start, middle)
                : rootOf(sums, hashes, middle, end);
            path[depth++] = SumTree.Sibling(sum, hash);
            if (index >= middle) start = middle;
            else end = middle;
        }
        SumTree.Sibling[] memory siblings = new SumTree.Sibling[](depth);
        for (uint256 i = 0; i < depth; i++) {
            siblings[i] = path[depth - 1 - i];
        }
        return SumTree.Proof(uint64(index), uint64(sums.length), siblings);
    }

    function split(uint256 count) internal pure returns (uint256 power) {
        power = 1;
        while (2 * power < count) power *= 2;
    }
}
