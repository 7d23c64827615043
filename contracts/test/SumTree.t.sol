// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SumTree} from "../src/libraries/SumTree.sol";
import {Checks} from "./Checks.sol";
import {PayoutTree} from "./PayoutTree.sol";

contract SumTreeTest is Checks {
    uint256 private constant MAX_LEAVES = 24;

    function test_every_proof_leads_to_the_root_and_to_the_sum_of_all(uint256 seed, uint256 count)
        external
        view
    {
        (address[] memory accounts, uint128[] memory amounts) =
            _leaves(seed, bound(count, 1, MAX_LEAVES));
        (uint128 sum, bytes32 root) = PayoutTree.rootOf(accounts, amounts, 0, accounts.length);
        uint256 total = 0;
        for (uint256 i = 0; i < accounts.length; i++) {
            total += amounts[i];
            SumTree.Sibling[] memory proof = PayoutTree.prove(accounts, amounts, i);
            (uint128 found, bytes32 hash) = this.rootOf(accounts[i], amounts[i], proof);
            check(hash == root, "the proof leads to the root");
            checkEqual(found, sum, "the proof adds up to the sum");
        }
        checkEqual(sum, total, "the sum is that of all leaves");
    }

    function test_a_proof_that_was_changed_anywhere_leads_to_another_root(
        uint256 seed,
        uint256 count,
        uint256 which,
        uint128 change
    ) external view {
        (address[] memory accounts, uint128[] memory amounts) =
            _leaves(seed, bound(count, 2, MAX_LEAVES));
        (, bytes32 root) = PayoutTree.rootOf(accounts, amounts, 0, accounts.length);
        uint256 index = seed % accounts.length;
        SumTree.Sibling[] memory proof = PayoutTree.prove(accounts, amounts, index);
        uint128 difference = uint128(bound(change, 1, 2 ** 100)); // sums stay below 128 bits
        SumTree.Sibling memory step = proof[which % proof.length];
        uint256 part = which % 6;
        if (part == 0) amounts[index] += difference;
        else if (part == 1) accounts[index] = address(uint160(accounts[index]) ^ difference);
        else if (part == 2) step.sum += difference;
        else if (part == 3) step.hash ^= bytes32(uint256(difference));
        else if (part == 4) step.isLeft = !step.isLeft;
        else proof = _shortened(proof);
        (, bytes32 hash) = this.rootOf(accounts[index], amounts[index], proof);
        check(hash != root, "a changed proof leads elsewhere");
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

    function test_a_leaf_is_no_node(address account, uint128 amount, uint128 sum, bytes32 hash)
        external
        pure
    {
        check(
            SumTree.leafHash(account, amount) != SumTree.nodeHash(sum, hash, sum, hash),
            "leaves and nodes are hashed apart"
        );
    }

    function test_sums_that_do_not_fit_are_refused(address account, uint128 amount, uint128 sum)
        external
    {
        amount = uint128(bound(amount, 1, type(uint128).max));
        sum = uint128(bound(sum, uint256(type(uint128).max) - amount + 1, type(uint128).max));
        SumTree.Sibling[] memory proof = new SumTree.Sibling[](1);
        proof[0] = SumTree.Sibling(sum, bytes32(0), false);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        this.rootOf(account, amount, proof);
    }

    /// @dev From outside, since the library reads proofs from calldata.
    function rootOf(address account, uint128 amount, SumTree.Sibling[] calldata proof)
        external
        pure
        returns (uint128, bytes32)
    {
        return SumTree.rootOf(account, amount, proof);
    }

    function _leaves(uint256 seed, uint256 count)
        private
        pure
        returns (address[] memory accounts, uint128[] memory amounts)
    {
        accounts = new address[](count);
        amounts = new uint128[](count);
        for (uint256 i = 0; i < count; i++) {
            uint256 word = uint256(keccak256(abi.encode(seed, i)));
            accounts[i] = address(uint160(word));
            amounts[i] = uint128(word >> 160); // 96 bits
        }
    }

    function _shortened(SumTree.Sibling[] memory proof)
        private
        pure
        returns (SumTree.Sibling[] memory shorter)
    {
        shorter = new SumTree.Sibling[](proof.length - 1);
        for (uint256 i = 0; i < shorter.length; i++) {
            shorter[i] = proof[i];
        }
    }
}
