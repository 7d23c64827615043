// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../dev/Channels.sol";
import {ChannelConfig, ChannelId, Voucher, VoucherClaim} from "../src/types/Channel.sol";
import {Checks} from "./Checks.sol";

contract ChannelDigestTest is Checks {
    struct Domain {
        string name;
        string version;
        uint256 chainId;
        address verifyingContract;
    }

    Channels private immutable channels = new Channels();

    function test_a_channel_id_is_the_eip712_digest_of_its_config(ChannelConfig calldata config)
        external
        view
    {
        bytes32 structHash = vm.eip712HashStruct(
            "ChannelConfig(address payer,address payerAuthorizer,address receiver,"
            "address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)",
            abi.encode(config)
        );
        check(_unwrap(channels.getChannelId(config)) == _digest(structHash), "as EIP-712 says");
    }

    function test_a_voucher_digest_is_that_of_eip712(ChannelId channelId, uint128 limit)
        external
        view
    {
        bytes32 structHash = vm.eip712HashStruct(
            "Voucher(bytes32 channelId,uint128 maxClaimableAmount)", abi.encode(channelId, limit)
        );
        check(
            channels.getVoucherDigest(channelId, limit) == _digest(structHash), "as EIP-712 says"
        );
    }

    function test_a_refund_digest_is_that_of_eip712(
        ChannelId channelId,
        uint256 nonce,
        uint128 amount
    ) external view {
        bytes32 structHash = vm.eip712HashStruct(
            "Refund(bytes32 channelId,uint256 nonce,uint128 amount)",
            abi.encode(channelId, nonce, amount)
        );
        check(
            channels.getRefundDigest(channelId, nonce, amount) == _digest(structHash),
            "as EIP-712 says"
        );
    }

    function test_a_batch_digest_covers_every_row_in_its_place(
        ChannelConfig calldata config,
        uint128[3] calldata limits,
        uint128[3] calldata totals,
        uint256 row,
        uint128 change
    ) external view {
        VoucherClaim[] memory claims = new VoucherClaim[](3);
        for (uint256 i = 0; i < 3; i++) {
            claims[i] = VoucherClaim(Voucher(config, limits[i]), "", totals[i]);
        }
        bytes32 digest = channels.getClaimBatchDigest(claims);
        row = row % 3;
        change = uint128(bound(change, 1, type(uint128).max));
        claims[row].totalClaimed = totals[row] ^ change;
        check(channels.getClaimBatchDigest(claims) != digest, "another total, another digest");
        claims[row].totalClaimed = totals[row];
        claims[row].voucher.maxClaimableAmount = limits[row] ^ change;
        check(channels.getClaimBatchDigest(claims) != digest, "another limit, another digest");
        claims[row].voucher.maxClaimableAmount = limits[row];
        check(channels.getClaimBatchDigest(claims) == digest, "the same rows, the same digest");
    }

    function test_digests_are_bound_to_this_contract_and_this_chain(
        ChannelConfig calldata config,
        uint256 chainId
    ) external {
        Channels other = new Channels();
        bytes32 here = _unwrap(channels.getChannelId(config));
        check(here != _unwrap(other.getChannelId(config)), "another contract, another id");
        chainId = bound(chainId, 1, type(uint64).max - 1);
        if (chainId == block.chainid) chainId++;
        vm.chainId(chainId);
        check(here != _unwrap(channels.getChannelId(config)), "another chain, another id");
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = vm.eip712HashStruct(
            "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
            abi.encode(Domain("x402 Batch Settlement", "1", block.chainid, address(channels)))
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    function _unwrap(ChannelId channelId) private pure returns (bytes32) {
        return ChannelId.unwrap(channelId);
    }
}
