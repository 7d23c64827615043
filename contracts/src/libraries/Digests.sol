// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {HeaderHash} from "../types/Header.sol";
import {Promise, Receipt} from "../types/Receipt.sol";

/// @title What nodes, clients, the aggregator and witnesses sign: EIP-712 in the domain
/// ("Lorikeet", "2", chain, settlement contract), computed at each call because a chain may split.
/// @notice Twin of proofs/receipt.py, proofs/promise.py and proofs/epoch.py.
library Digests {
    bytes32 private constant DOMAIN_TYPE = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );
    bytes32 private constant RECEIPT_TYPE = keccak256(
        "Receipt(bytes32 channelId,uint64 sequence,uint128 cumulative,bytes32 payouts,bytes32 body)"
    );
    bytes32 private constant PROMISE_TYPE = keccak256(
        "Promise(bytes32 channelId,uint64 sequence,uint128 cumulative,bytes32 body,uint64 deadline)"
    );
    bytes32 private constant HEADER_TYPE = keccak256("Header(bytes32 header)");

    /// @notice What the node, and the client too, sign of an answer.
    function ofReceipt(Receipt memory receipt, address settlement)
        internal
        view
        returns (bytes32)
    {
        return _digest(keccak256(abi.encode(RECEIPT_TYPE, receipt)), settlement);
    }

    /// @notice What the aggregator signs when it takes a receipt.
    function ofPromise(Promise calldata pledge, address settlement)
        internal
        view
        returns (bytes32)
    {
        return _digest(keccak256(abi.encode(PROMISE_TYPE, pledge)), settlement);
    }

    /// @notice What a witness signs who holds the batch and recomputed the header from it.
    function ofHeader(HeaderHash header, address settlement) internal view returns (bytes32) {
        return _digest(keccak256(abi.encode(HEADER_TYPE, header)), settlement);
    }

    function _digest(bytes32 structHash, address settlement) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                DOMAIN_TYPE, keccak256("Lorikeet"), keccak256("2"), block.chainid, settlement
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
