// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SumTree} from "../src/libraries/SumTree.sol";
import {Checks} from "./Checks.sol";
import {Trees} from "./Trees.sol";

contract SumTreeTest is Checks {
    uint256 private constant MAX_LEAVES = 24;

    function test_every_proof_leads_to_the_commitment(uint256 seed, uint256 count) external view {
        (uint128[] memory sums, bytes32[] memory hashes) =
            _leaves(seed, bound(count, 1, MAX_LEAVES));
        SumTree.Opening memory opening = Trees.open(sums, hashes);
        uint256 total = 0;
        for (uint256 i = 0; i < sums.length; i++) {
            total += sums[i];
            SumTree.Proof memory proof = Trees.prove(sums, hashes, i);
            check(
                this.commitmentOf(sums[i], hashes[i], proof) == Trees.commitment(opening),
                "the proof leads to the commitment"
            );
        }
        checkEqual(opening.sum, total, "the sum is that of all leaves");
    }

    function test_all_leaves_at_once_give_the_same_root(uint256 seed, uint256 count)
        external
        pure
    {
        (uint128[] memory sums, bytes32[] memory hashes) =
            _leaves(seed, bound(count, 0, MAX_LEAVES));
        SumTree.Opening memory opening = Trees.open(sums, hashes);
        (uint128 sum, bytes32 root) = SumTree.rootOfAll(sums, hashes);
        check(sum == opening.sum && root == opening.root, "level by level, the same tree");
    }

    function test_a_proof_that_was_changed_anywhere_shows_nothing(
        uint256 seed,
        uint256 count,
        uint256 which,
        uint64 change
    ) external view {
        (uint128[] memory sums, bytes32[] memory hashes) =
            _leaves(seed, bound(count, 2, MAX_LEAVES));
        bytes32 committed = Trees.commitment(Trees.open(sums, hashes));
        uint256 index = seed % sums.length;
        SumTree.Proof memory proof = Trees.prove(sums, hashes, index);
        uint64 difference = uint64(bound(change, 1, 2 ** 60));
        SumTree.Sibling memory step = proof.siblings[which % proof.siblings.length];
        uint256 part = which % 7;
        if (part == 0) {
            sums[index] += difference;
        } else if (part == 1) {
            hashes[index] ^= bytes32(uint256(difference));
        } else if (part == 2) {
            step.sum += difference;
        } else if (part == 3) {
            step.hash ^= bytes32(uint256(difference));
        } else if (part == 4) {
            proof.index = uint64((index + difference % (proof.size - 1) + 1) % proof.size);
        } else if (part == 5) {
            proof.size += difference;
        } else {
            proof.siblings = _shortened(proof.siblings);
        }
        try this.commitmentOf(sums[index], hashes[index], proof) returns (bytes32 found) {
            check(found != committed, "a changed proof leads elsewhere");
        } catch {}
    }

    function test_money_moved_between_two_children_changes_the_root(
        uint128 left,
        uint128 right,
        uint128 moved,
        bytes32 leftHash,
        bytes32 rightHash
    ) external pure {
        left = uint128(bound(left, 1, 2 ** 127));
        right = uint128(bound(right, 0, 2 ** 127 - 1));
        moved = uint128(bound(moved, 1, left));
        check(
            SumTree.nodeHash(left, leftHash, right, rightHash)
                != SumTree.nodeHash(left - moved, leftHash, right + moved, rightHash),
            "the hash covers both sums, not their total"
        );
    }

    function test_a_node_is_hashed_as_it_is_written(
        uint128 left,
        bytes32 leftHash,
        uint128 right,
        bytes32 rightHash
    ) external pure {
        check(
            SumTree.nodeHash(left, leftHash, right, rightHash)
                == keccak256(abi.encodePacked(bytes1(0x01), left, leftHash, right, rightHash)),
            "the assembly hashes 97 bytes"
        );
    }

    function test_sums_that_do_not_fit_are_refused(bytes32 leaf, uint128 amount, uint128 sum)
        external
    {
        amount = uint128(bound(amount, 1, type(uint128).max));
        sum = uint128(bound(sum, uint256(type(uint128).max) - amount + 1, type(uint128).max));
        SumTree.Sibling[] memory siblings = new SumTree.Sibling[](1);
        siblings[0] = SumTree.Sibling(sum, bytes32(0));
        vm.expectRevert(abi.encodePacked(SumTree.BadProof.selector));
        this.commitmentOf(amount, leaf, SumTree.Proof(0, 2, siblings));
    }

    function test_no_leaf_stands_outside_its_tree(uint64 index, uint64 size) external {
        size = uint64(bound(size, 0, index));
        vm.expectRevert(abi.encodePacked(SumTree.BadProof.selector));
        this.commitmentOf(1, 0, SumTree.Proof(index, size, new SumTree.Sibling[](0)));
    }

    /// @dev From outside, since the library reads proofs from calldata.
    function commitmentOf(uint128 amount, bytes32 leaf, SumTree.Proof calldata proof)
        external
        pure
        returns (bytes32)
    {
        return SumTree.commitmentOf(amount, leaf, proof);
    }

    function _leaves(uint256 seed, uint256 count)
        private
        pure
        returns (uint128[] memory sums, bytes32[] memory hashes)
    {
        sums = new uint128[](count);
        hashes = new bytes32[](count);
        for (uint256 i = 0; i < count; i++) {
            hashes[i] = keccak256(abi.encode(seed, i));
            sums[i] = uint128(uint256(hashes[i]) >> 160); // 96 bits
        }
    }

    function _shortened(SumTree.Sibling[] memory siblings)
        private
        pure
        returns (SumTree.Sibling[] memory shorter)
    {
        shorter = new SumTree.Sibling[](siblings.length - 1);
        for (uint256 i = 0; i < shorter.length; i++) {
            shorter[i] = siblings[i];
        }
    }
}
