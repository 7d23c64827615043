// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {Channels} from "../dev/Channels.sol";
import {Settlement} from "../src/Settlement.sol";
import {IChannels} from "../src/interfaces/IChannels.sol";
import {ICollector} from "../src/interfaces/ICollector.sol";
import {Board, Terms} from "../src/interfaces/IOffice.sol";
import {SumTree} from "../src/libraries/SumTree.sol";
import {LorikeetToken} from "../src/token/LorikeetToken.sol";
import {ChannelConfig, ChannelId, Voucher, VoucherClaim} from "../src/types/Channel.sol";
import {Anchor, Header, HeaderHash, PostedHeader} from "../src/types/Header.sol";
import {AccountLeaf} from "../src/types/Leaves.sol";
import {Checks} from "./Checks.sol";

/// @dev Brings tokens that their payer allowed it to take: LORI has no ERC-3009.
contract AllowanceCollector is ICollector {
    function collect(address payer, address token, uint256 amount, ChannelId, bytes calldata)
        external
    {
        require(IERC20(token).transferFrom(payer, msg.sender, amount));
    }
}

/// @title Fees in the network's own token: from a deposit to a payout, with the contracts as they are.
contract LoriFeesTest is Checks {
    uint256 private constant PAYER_KEY = 0xA11CE;
    address private constant OPERATOR = address(0x0B0B);
    address private constant AGGREGATOR = address(0xA66);
    uint128 private constant FEE = 7 ether;
    uint128 private constant BOND = 3 ether;

    LorikeetToken private immutable lori = new LorikeetToken(address(this));
    IChannels private immutable channels = IChannels(0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003);
    Settlement private immutable settlement;
    address private immutable payer = vm.addr(PAYER_KEY);

    constructor() {
        vm.etch(address(channels), address(new Channels()).code);
        vm.warp(1_000_000);
        settlement = new Settlement(
            Board(address(this), AGGREGATOR, new address[](0), 0),
            channels,
            lori,
            Terms(1_000, 200, 10_000, 2_000, BOND, 1 ether)
        );
        lori.approve(address(settlement), BOND);
        settlement.fundBond(BOND);
        require(lori.transfer(payer, 10 ether));
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

    /// @dev A deposit, and a voucher that the operator claims in full.
    function _earn() private {
        ChannelConfig memory config = ChannelConfig({
            payer: payer,
            payerAuthorizer: payer,
            receiver: address(settlement),
            receiverAuthorizer: OPERATOR,
            token: address(lori),
            withdrawDelay: 1 hours,
            salt: bytes32(bytes20(OPERATOR))
        });
        AllowanceCollector collector = new AllowanceCollector();
        vm.prank(payer);
        lori.approve(address(collector), FEE);
        channels.deposit(config, FEE, address(collector), "");
        ChannelId id = channels.getChannelId(config);
        bytes32 digest = Channels(address(channels)).getVoucherDigest(id, FEE);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, digest);
        VoucherClaim[] memory claims = new VoucherClaim[](1);
        claims[0] = VoucherClaim(Voucher(config, FEE), abi.encodePacked(r, s, v), FEE);
        vm.prank(OPERATOR);
        channels.claim(claims);
    }
}
