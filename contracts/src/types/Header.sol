// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The hash of a `Header`: what the next header names, and what a payout is claimed under.
/// A type of its own, because a header also holds a root and a digest of 32 bytes each.
type HeaderHash is bytes32;

using {equals as ==} for HeaderHash global;

/// @notice One epoch, as the aggregator posts it.
struct Header {
    uint64 epoch;
    HeaderHash previous; // of the previous epoch's header, zero before the first
    bytes32 receiptsRoot; // RFC 9162 log of all receipts so far
    uint64 numReceipts; // size of that log
    bytes32 payoutRoot; // hash of the payout sum tree's root
    uint128 payoutTotal; // its sum: what all accounts together were ever awarded
    bytes32 batchDigest; // sha-256 of the published batch from which all this can be recomputed
}

using {hash} for Header global;

/// @notice Hashes a header: keccak256 of its ABI encoding, seven words.
function hash(Header calldata header) pure returns (HeaderHash) {
    return HeaderHash.wrap(keccak256(abi.encode(header)));
}

function equals(HeaderHash left, HeaderHash right) pure returns (bool) {
    return HeaderHash.unwrap(left) == HeaderHash.unwrap(right);
}
