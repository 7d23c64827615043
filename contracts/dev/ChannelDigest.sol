// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ChannelConfig, ChannelId, Voucher, VoucherClaim} from "../src/types/Channel.sol";

/// @title The digests that are signed off chain, under the domain of x402's batch settlement.
/// @notice The domain is computed at run time from the contract's address and the chain id: on
/// development chains the code is placed at its address without running a constructor, so it may
/// have neither immutables nor stored values.
library ChannelDigest {
    bytes32 private constant DOMAIN_TYPE = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );
    bytes32 private constant CONFIG_TYPE = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,"
        "address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 private constant VOUCHER_TYPE =
        keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
    bytes32 private constant REFUND_TYPE =
        keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
    bytes32 private constant ENTRY_TYPE =
        keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)");
    bytes32 private constant BATCH_TYPE = keccak256(
        "ClaimBatch(ClaimEntry[] claims)"
        "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
    );

    /// @notice A channel's id.
    function ofConfig(ChannelConfig calldata config) internal view returns (ChannelId) {
        return ChannelId.wrap(_digest(keccak256(abi.encode(CONFIG_TYPE, config))));
    }

    /// @notice What the payer authorizer signs: the receiver may claim up to this much, in all.
    function ofVoucher(ChannelId channelId, uint128 maxClaimableAmount)
        internal
        view
        returns (bytes32)
    {
        return _digest(keccak256(abi.encode(VOUCHER_TYPE, channelId, maxClaimableAmount)));
    }

    /// @notice What the receiver authorizer signs to have unclaimed money given back.
    function ofRefund(ChannelId channelId, uint256 nonce, uint128 amount)
        internal
        view
        returns (bytes32)
    {
        return _digest(keccak256(abi.encode(REFUND_TYPE, channelId, nonce, amount)));
    }

    /// @notice What the receiver authorizer signs to have claims relayed.
    function ofBatch(VoucherClaim[] calldata claims) internal view returns (bytes32) {
        bytes32[] memory entries = new bytes32[](claims.length);
        for (uint256 i = 0; i < claims.length; i++) {
            Voucher calldata voucher = claims[i].voucher;
            entries[i] = keccak256(
                abi.encode(
                    ENTRY_TYPE,
                    ofConfig(voucher.channel),
                    voucher.maxClaimableAmount,
                    claims[i].totalClaimed
                )
            );
        }
        return _digest(keccak256(abi.encode(BATCH_TYPE, keccak256(abi.encodePacked(entries)))));
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                DOMAIN_TYPE,
                keccak256("x402 Batch Settlement"),
                keccak256("1"),
                block.chainid,
                address(this)
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
