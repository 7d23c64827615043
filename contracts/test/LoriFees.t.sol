// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../dev/Channels.sol";
import {Erc3009Collector} from "../dev/Erc3009Collector.sol";
import {Settlement} from "../src/Settlement.sol";
import {IChannels} from "../src/interfaces/IChannels.sol";
import {Board, Terms} from "../src/interfaces/IOffice.sol";
import {SumTree} from "../src/libraries/SumTree.sol";
import {LorikeetToken} from "../src/token/LorikeetToken.sol";
import {ChannelConfig, ChannelId, Voucher, VoucherClaim} from "../src/types/Channel.sol";
import {Anchor, Header, HeaderHash, PostedHeader} from "../src/types/Header.sol";
import {AccountLeaf} from "../src/types/Leaves.sol";
import {Checks} from "./Checks.sol";

/// @title Fees in the network's own token: from a signed deposit to a payout.
contract LoriFeesTest is Checks {
    uint256 private constant PAYER_KEY = 0xA11CE;
    address private constant OPERATOR = address(0x0B0B);
    address private constant AGGREGATOR = address(0xA66);
    uint128 private constant FEE = 7e6;
    uint128 private constant BOND = 3e6;

    LorikeetToken private immutable lori = new LorikeetToken(address(this));
    IChannels private immutable channels = IChannels(0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003);
    Erc3009Collector private immutable collector = new Erc3009Collector();
    Settlement private immutable settlement;
    address private immutable payer = vm.addr(PAYER_KEY);

    constructor() {
        vm.etch(address(channels), address(new Channels()).code);
        vm.warp(1_000_000);
        settlement = new Settlement(
            Board(address(this), AGGREGATOR, new address[](0), 0),
            channels,
            lori,
            Terms(1_000, 200, 10_000, 2_000, BOND, 1e6)
        );
        lori.approve(address(settlement), BOND);
        settlement.fundBond(BOND);
        require(lori.transfer(payer, 10e6));
    }

    function test_fees_in_lori_are_deposited_claimed_awarded_and_paid(address account) external {
        if (account == address(0) || account.code.length > 0 || account == payer) return;
        _earn();
        uint256 before = lori.balanceOf(account);
        AccountLeaf memory leaf = AccountLeaf(account, FEE, 0);
        bytes32 root =
            keccak256(abi.encodePacked(bytes1(0x00), leaf.account, leaf.amount, leaf.entries));
        bytes32 payouts = SumTree.commitment(1, FEE, root);
        Header memory header = Header(1, HeaderHash.wrap(0), 0, 1, payouts, payouts, FEE, 0);
        vm.prank(AGGREGATOR);
        settlement.post(header, new bytes[](0), Anchor(type(uint64).max, 0, type(uint64).max));
        PostedHeader memory posted = PostedHeader(header, uint64(block.timestamp));
        vm.warp(block.timestamp + 1_000);
        settlement.claim(posted, leaf, SumTree.Proof(0, 1, new SumTree.Sibling[](0)));
        checkEqual(lori.balanceOf(account) - before, FEE, "it is paid in LORI");
        checkEqual(lori.balanceOf(address(settlement)), BOND, "the bond stays");
    }

    function test_a_deposit_is_made_once_and_into_the_channel_that_was_signed_for() external {
        ChannelConfig memory config = _channel();
        bytes memory signed = _authorize(channels.getChannelId(config), FEE);
        ChannelConfig memory other = _channel();
        other.salt = bytes32(uint256(1));
        vm.expectPartialRevert(bytes4(keccak256("ERC3009InvalidSignature()")));
        channels.deposit(other, FEE, address(collector), signed);
        channels.deposit(config, FEE, address(collector), signed);
        vm.expectPartialRevert(bytes4(keccak256("ERC3009UsedAuthorization(address,bytes32)")));
        channels.deposit(config, FEE, address(collector), signed);
        checkEqual(lori.balanceOf(payer), 10e6 - FEE, "once");
    }

    /// @dev A deposit, and a voucher that the operator claims in full.
    function _earn() private {
        ChannelConfig memory config = _channel();
        ChannelId id = channels.getChannelId(config);
        channels.deposit(config, FEE, address(collector), _authorize(id, FEE));
        bytes32 digest = Channels(address(channels)).getVoucherDigest(id, FEE);
        VoucherClaim[] memory claims = new VoucherClaim[](1);
        claims[0] = VoucherClaim(Voucher(config, FEE), _sign(digest), FEE);
        vm.prank(OPERATOR);
        channels.claim(claims);
    }

    function _channel() private view returns (ChannelConfig memory) {
        return ChannelConfig({
            payer: payer,
            payerAuthorizer: payer,
            receiver: address(settlement),
            receiverAuthorizer: OPERATOR,
            token: address(lori),
            withdrawDelay: 1 hours,
            salt: bytes32(bytes20(OPERATOR))
        });
    }

    /// @dev What the collector needs to bring the payer's deposit into this channel, once.
    function _authorize(ChannelId id, uint128 amount) private view returns (bytes memory) {
        bytes32 structHash = vm.eip712HashStruct(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
            "uint256 validBefore,bytes32 nonce)",
            abi.encode(
                payer,
                address(collector),
                amount,
                0,
                type(uint256).max,
                keccak256(abi.encode(id, uint256(1)))
            )
        );
        bytes32 digest =
            keccak256(abi.encodePacked(hex"1901", lori.DOMAIN_SEPARATOR(), structHash));
        return abi.encode(0, type(uint256).max, uint256(1), _sign(digest));
    }

    function _sign(bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, digest);
        return abi.encodePacked(r, s, v);
    }
}
