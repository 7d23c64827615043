// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The hash of a `Header`: what the next header names. A type of its own, because a header
/// also holds roots and a digest of 32 bytes each.
type HeaderHash is bytes32;

/// @notice One epoch, as the aggregator posts it. Totals count every epoch so far.
struct Header {
    uint64 epoch; // from 1
    HeaderHash previous; // of the previous epoch's header, zero before the first
    bytes32 receiptsRoot; // RFC 9162 log of all receipts so far
    uint64 numReceipts; // size of that log
    bytes32 channelsRoot; // commitment of the tree of channels; its sum is payoutTotal
    bytes32 payoutRoot; // commitment of the tree of accounts; its sum is payoutTotal
    uint128 payoutTotal; // what all accounts together were ever awarded
    bytes32 batchDigest; // sha-256 of the published batch from which all this can be recomputed
}

/// @notice A header, and when it came into a block. The contract keeps only the hash of the two,
/// so whoever relies on a header brings both.
struct PostedHeader {
    Header header;
    uint64 postedAt; // seconds, of the chain's clock
}

/// @notice On which branch of the chain, and until when, a header may be posted. What an honest
/// aggregator seals is true of the branch that it read: a transaction that waits for long, or that a
/// reorganisation carries over, must not bring it onto another.
struct Anchor {
    uint64 number; // of a block, one of the last 256
    bytes32 hash; // of that block; zero, with a number to come, binds to no branch
    uint64 notAfter; // seconds, of the chain's clock
}

using {hash} for Header global;
using {word} for PostedHeader global;

/// @notice Hashes a header: keccak256 of its ABI encoding, eight words, as they came. A number with
/// more bits than its type has is refused where it is read, which `post` does.
function hash(Header calldata header) pure returns (HeaderHash headerHash) {
    assembly ("memory-safe") {
        let free := mload(0x40)
        calldatacopy(free, header, 256)
        headerHash := keccak256(free, 256)
    }
}

/// @notice The word under which a posted header is kept.
function word(PostedHeader calldata posted) pure returns (bytes32) {
    return postedWord(posted.header.hash(), posted.postedAt);
}

/// @notice keccak256(header hash 32 || posted at 8).
function postedWord(HeaderHash headerHash, uint64 postedAt) pure returns (bytes32) {
    return keccak256(abi.encodePacked(headerHash, postedAt));
}
