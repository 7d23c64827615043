// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Finds two digests in a receipt's body, which is canonical MessagePack.
/// @notice Twin of the first ten fields of proofs/receipt.py. Everything in front of them has a length
/// that is known: a head of 3 bytes, and bytes of 20 and 32 with 2 in front; but for two integers,
/// whose value is known. Believes that the body is one: the aggregator signed its digest.
library Bodies {
    /// @notice The digest of the channel's receipt before, and that of the adapter's manifest; zeros
    /// for none.
    function read(bytes calldata body, uint256 chainId, uint64 sequence)
        internal
        pure
        returns (bytes32 previous, bytes32 adapter)
    {
        // [head, version, chain id, settlement 20, channel 32, sequence, previous 32, operator 20,
        // client 20, base 32, adapter 32, …]
        uint256 start = 3 + 1 + _length(chainId) + 22 + 34 + _length(sequence) + 2;
        uint256 behind = start + 32 + 22 + 22 + 34 + 2;
        if (body.length < behind + 32) return (previous, adapter);
        previous = bytes32(body[start:]);
        adapter = bytes32(body[behind:]);
    }

    /// @dev How many bytes the shortest form of an integer has.
    function _length(uint256 value) private pure returns (uint256) {
        if (value < 1 << 7) return 1;
        if (value < 1 << 8) return 2;
        if (value < 1 << 16) return 3;
        if (value < 1 << 32) return 5;
        return 9;
    }
}
