// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a channel is. Its EIP-712 digest is the channel's id, so nothing in here ever changes.
struct ChannelConfig {
    address payer; // whose tokens are deposited and get back what is not claimed
    address payerAuthorizer; // the key that signs vouchers; zero: the payer itself, which may be a contract (ERC-1271)
    address receiver; // where settled tokens go
    address receiverAuthorizer; // who may claim and refund
    address token;
    uint40 withdrawDelay; // seconds between asking for money back and getting it
    bytes32 salt;
}

/// @notice "The receiver may claim up to this much of this channel, in all."
struct Voucher {
    ChannelConfig channel;
    uint128 maxClaimableAmount;
}

/// @notice A voucher with its signature, and how much of it the receiver takes: `totalClaimed`, cumulative as well.
struct VoucherClaim {
    Voucher voucher;
    bytes signature;
    uint128 totalClaimed;
}

/// @title The digests that are signed off chain, under the domain of x402's batch settlement.
/// @notice The domain is computed at run time from the contract's address and the chain id: on development chains the
/// code is placed at its address without running a constructor, so it may have neither immutables nor stored values.
library ChannelDigest {
    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant CONFIG_TYPE = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 private constant VOUCHER_TYPE = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
    bytes32 private constant REFUND_TYPE = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
    bytes32 private constant ENTRY_TYPE =
        keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)");
    bytes32 private constant BATCH_TYPE = keccak256(
        "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
    );

    function ofConfig(ChannelConfig calldata config) internal view returns (bytes32) {
        return _digest(keccak256(abi.encode(CONFIG_TYPE, config)));
    }

    function ofVoucher(bytes32 channelId, uint128 maxClaimableAmount) internal view returns (bytes32) {
        return _digest(keccak256(abi.encode(VOUCHER_TYPE, channelId, maxClaimableAmount)));
    }

    function ofRefund(bytes32 channelId, uint256 nonce, uint128 amount) internal view returns (bytes32) {
        return _digest(keccak256(abi.encode(REFUND_TYPE, channelId, nonce, amount)));
    }

    function ofBatch(VoucherClaim[] calldata claims) internal view returns (bytes32) {
        bytes32[] memory entries = new bytes32[](claims.length);
        for (uint256 i = 0; i < claims.length; i++) {
            Voucher calldata voucher = claims[i].voucher;
            entries[i] = keccak256(
                abi.encode(ENTRY_TYPE, ofConfig(voucher.channel), voucher.maxClaimableAmount, claims[i].totalClaimed)
            );
        }
        return _digest(keccak256(abi.encode(BATCH_TYPE, keccak256(abi.encodePacked(entries)))));
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN_TYPE, keccak256("x402 Batch Settlement"), keccak256("1"), block.chainid, address(this))
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
