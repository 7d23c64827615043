// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SumTree} from "../libraries/SumTree.sol";
import {ChannelId} from "./Channel.sol";

/// @notice A leaf of the tree of channels; its sum is `cumulative`.
struct ChannelLeaf {
    ChannelId channelId;
    uint64 sequence; // of the channel's last receipt
    uint128 cumulative; // as that receipt says
    bytes32 payouts; // commitment of the channel's payouts, as that receipt says
    bytes32 body; // sha-256 of that receipt
    bytes32 evidence; // keccak256 of the node's 65-byte signature under it
}

/// @notice A leaf of the tree of accounts; its sum is `amount`.
struct AccountLeaf {
    address account;
    uint128 amount; // what the account was ever awarded
    bytes32 entries; // commitment of the account's entries, whose sum this amount is
}

/// @notice A leaf of an account's entries: what it is owed of one channel; its sum is `amount`.
struct EntryLeaf {
    ChannelId channelId;
    uint128 amount;
    uint64 channelIndex; // where the channel's leaf stands
    uint64 place; // where the account stands in the channel's payouts
}

/// @notice A leaf of a channel's payouts; its sum is `amount`.
struct PayoutLeaf {
    address account;
    uint128 amount;
}

struct ChannelProof {
    ChannelLeaf leaf;
    SumTree.Proof proof;
}

struct AccountProof {
    AccountLeaf leaf;
    SumTree.Proof proof;
}

struct EntryProof {
    EntryLeaf leaf;
    SumTree.Proof proof;
}

struct PayoutProof {
    PayoutLeaf leaf;
    SumTree.Proof proof;
}

using Leaves for ChannelProof global;
using Leaves for AccountProof global;
using Leaves for EntryProof global;
using Leaves for PayoutProof global;

/// @title The bytes of each kind of leaf, and the commitment that a leaf and its proof lead to.
/// @notice Twin of proofs/epoch.py and proofs/payouts.py. Contents have 152, 68, 64 and 36 bytes, so
/// a leaf of one tree is never one of another.
library Leaves {
    function commitment(ChannelProof calldata proven) internal pure returns (bytes32) {
        return SumTree.commitmentOf(proven.leaf.cumulative, hash(proven.leaf), proven.proof);
    }

    function commitment(AccountProof calldata proven) internal pure returns (bytes32) {
        return SumTree.commitmentOf(proven.leaf.amount, hash(proven.leaf), proven.proof);
    }

    function commitment(EntryProof calldata proven) internal pure returns (bytes32) {
        return SumTree.commitmentOf(proven.leaf.amount, hash(proven.leaf), proven.proof);
    }

    function commitment(PayoutProof calldata proven) internal pure returns (bytes32) {
        return SumTree.commitmentOf(proven.leaf.amount, hash(proven.leaf), proven.proof);
    }

    function hash(ChannelLeaf calldata leaf) internal pure returns (bytes32) {
        return keccak256(
            abi.encodePacked(
                bytes1(0x00),
                leaf.channelId,
                leaf.sequence,
                leaf.cumulative,
                leaf.payouts,
                leaf.body,
                leaf.evidence
            )
        );
    }

    function hash(AccountLeaf calldata leaf) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x00), leaf.account, leaf.amount, leaf.entries));
    }

    function hash(EntryLeaf calldata leaf) internal pure returns (bytes32) {
        return keccak256(
            abi.encodePacked(
                bytes1(0x00), leaf.channelId, leaf.amount, leaf.channelIndex, leaf.place
            )
        );
    }

    function hash(PayoutLeaf calldata leaf) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x00), leaf.account, leaf.amount));
    }
}
