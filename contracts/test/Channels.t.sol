// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../dev/Channels.sol";
import {Erc3009Collector} from "../dev/Erc3009Collector.sol";
import {IChannels} from "../src/interfaces/IChannels.sol";
import {ChannelConfig, ChannelId, VoucherClaim} from "../src/types/Channel.sol";
import {World} from "./World.sol";

contract ChannelsTest is World {
    uint128 private constant MOST = uint128(FUNDS) / 4;

    function test_a_claim_takes_what_both_the_voucher_and_the_balance_allow(
        uint128 balance,
        uint128 limit,
        uint128 total
    ) external {
        balance = _amount(balance);
        limit = _amount(limit);
        total = uint128(bound(total, 1, MOST));
        (ChannelConfig memory config, ChannelId id) = _open(balance);
        VoucherClaim[] memory claims = voucher(PAYER_KEY, config, limit, total);
        bool allowed = total <= limit && total <= balance;
        if (total > limit) vm.expectPartialRevert(IChannels.ClaimExceedsVoucher.selector);
        else if (total > balance) vm.expectPartialRevert(IChannels.ClaimExceedsBalance.selector);
        vm.prank(operator);
        channels.claim(claims);
        (, uint128 claimed) = channels.channels(id);
        checkEqual(claimed, allowed ? total : 0, "what is booked");
    }

    function test_claims_in_any_order_book_the_highest(uint128[5] calldata totals) external {
        (ChannelConfig memory config, ChannelId id) = _open(MOST);
        uint128 highest = 0;
        for (uint256 i = 0; i < totals.length; i++) {
            uint128 total = _amount(totals[i]);
            if (total > highest) highest = total;
            claim(config, total);
            (, uint128 claimed) = channels.channels(id);
            (uint128 booked,) = channels.receivers(address(settlement), address(token));
            checkEqual(claimed, highest, "a channel's claims never fall");
            checkEqual(booked, highest, "its receiver has as much");
        }
    }

    function test_nobody_but_the_payer_authorizer_signs_vouchers(uint256 key, uint128 amount)
        external
    {
        key = bound(key, 1, 2 ** 128);
        if (key == PAYER_KEY) key++;
        (ChannelConfig memory config, ChannelId id) = _open(MOST);
        VoucherClaim[] memory claims = voucher(key, config, _amount(amount), 1);
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadVoucherSignature.selector, id));
        vm.prank(operator);
        channels.claim(claims);
    }

    function test_a_voucher_is_of_one_channel(uint128 amount) external {
        (ChannelConfig memory config,) = _open(MOST);
        VoucherClaim[] memory claims = voucher(PAYER_KEY, config, _amount(amount), 1);
        claims[0].voucher.channel.salt = channel(payer, 2).salt;
        vm.expectPartialRevert(IChannels.BadVoucherSignature.selector);
        vm.prank(operator);
        channels.claim(claims);
    }

    function test_nobody_but_the_receiver_side_claims_and_refunds(address stranger) external {
        if (stranger == operator || stranger == address(settlement)) return;
        (ChannelConfig memory config,) = _open(MOST);
        VoucherClaim[] memory claims = voucher(PAYER_KEY, config, 1, 1);
        bytes memory refused = abi.encodeWithSelector(IChannels.NotReceiverSide.selector, stranger);
        vm.expectRevert(refused);
        vm.prank(stranger);
        channels.claim(claims);
        vm.expectRevert(refused);
        vm.prank(stranger);
        channels.refund(config, 1);
    }

    function test_a_signed_deposit_goes_into_the_channel_that_was_signed(
        uint128 amount,
        bytes32 salt
    ) external {
        amount = _amount(amount);
        ChannelConfig memory config = channel(payer, 1);
        bytes memory signature =
            authorize(PAYER_KEY, channels.getChannelId(config), amount, uint256(salt));
        if (uint96(uint256(salt)) != 1) {
            ChannelConfig memory other = channel(payer, uint256(salt));
            vm.expectPartialRevert(bytes4(keccak256("ERC3009InvalidSignature()")));
            channels.deposit(other, amount, address(collector), signature);
        }
        channels.deposit(config, amount, address(collector), signature);
        (uint128 balance,) = channels.channels(channels.getChannelId(config));
        checkEqual(balance, amount, "it arrived there");
    }

    function test_nobody_but_the_channels_may_collect(address stranger) external {
        if (stranger == CHANNELS) return;
        vm.expectRevert(abi.encodeWithSelector(Erc3009Collector.NotChannels.selector, stranger));
        vm.prank(stranger);
        collector.collect(payer, address(token), 1, ChannelId.wrap(0), "");
    }

    function test_a_withdrawal_waits_and_pays_what_is_still_unclaimed(
        uint128 balance,
        uint128 asked,
        uint128 claimed,
        uint256 waited
    ) external {
        balance = _amount(balance);
        asked = uint128(bound(asked, 1, balance));
        claimed = uint128(bound(claimed, 0, balance));
        waited = waited % 2 == 0 ? DELAY - waited / 2 % 2 : bound(waited, 0, 2 * uint256(DELAY));
        (ChannelConfig memory config, ChannelId id) = _open(balance);
        vm.prank(payer);
        channels.initiateWithdraw(config, asked);
        if (claimed > 0) {
            claim(config, claimed);
        }
        uint256 before = token.balanceOf(payer);
        vm.warp(block.timestamp + waited);
        if (waited < DELAY) vm.expectPartialRevert(IChannels.WithdrawDelayNotOver.selector);
        vm.prank(payer);
        channels.finalizeWithdraw(config);
        uint256 paid = waited < DELAY ? 0 : smaller(asked, balance - claimed);
        checkEqual(token.balanceOf(payer) - before, paid, "what came back");
        (uint128 left,) = channels.channels(id);
        checkEqual(left, balance - paid, "what stays");
    }

    function test_a_refund_pays_what_is_unclaimed_and_voids_what_was_signed(
        uint128 balance,
        uint128 wanted,
        uint128 claimed
    ) external {
        balance = _amount(balance);
        wanted = _amount(wanted);
        claimed = uint128(bound(claimed, 1, balance));
        (ChannelConfig memory config, ChannelId id) = _open(balance);
        bytes memory signature = signed(OPERATOR_KEY, channels.getRefundDigest(id, 0, wanted));
        claim(config, claimed);
        uint256 before = token.balanceOf(payer);
        vm.prank(operator);
        channels.refund(config, wanted);
        uint256 paid = smaller(wanted, balance - claimed);
        checkEqual(token.balanceOf(payer) - before, paid, "what came back");
        vm.expectRevert(abi.encodeWithSelector(IChannels.WrongRefundNonce.selector, 1, 0));
        channels.refundWithSignature(config, wanted, 0, signature);
    }

    function _amount(uint128 value) private pure returns (uint128) {
        return uint128(bound(value, 1, MOST));
    }

    function _open(uint128 balance) private returns (ChannelConfig memory config, ChannelId id) {
        config = channel(payer, 1);
        id = channels.getChannelId(config);
        deposit(PAYER_KEY, config, balance);
    }
}
