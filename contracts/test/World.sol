// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../dev/Channels.sol";
import {DevDollar} from "../dev/DevDollar.sol";
import {Erc3009Collector} from "../dev/Erc3009Collector.sol";
import {Court} from "../src/Court.sol";
import {Settlement} from "../src/Settlement.sol";
import {IChannels} from "../src/interfaces/IChannels.sol";
import {IFeeToken} from "../src/interfaces/IFeeToken.sol";
import {Board, Terms} from "../src/interfaces/IOffice.sol";
import {ChannelConfig, ChannelId, Voucher, VoucherClaim} from "../src/types/Channel.sol";
import {Anchor} from "../src/types/Header.sol";
import {Checks} from "./Checks.sol";

/// @title A chain with everything deployed, and keys for everybody.
/// @dev The channels lie at x402's address, because the collector obeys nobody else.
abstract contract World is Checks {
    address internal constant CHANNELS = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003;
    uint256 internal constant PAYER_KEY = 0xA11CE;
    uint256 internal constant OPERATOR_KEY = 0x0B0B;
    uint256 internal constant AGGREGATOR_KEY = 0xA66;
    uint64 internal constant WINDOW = 1_000;
    uint64 internal constant ANSWER_TIME = 200;
    uint64 internal constant SILENCE = 10_000;
    uint64 internal constant TIMELOCK = 2_000;
    uint128 internal constant BOND = 1_001; // odd: half of it is not half
    uint128 internal constant DEMAND_FEE = 10;
    uint256 internal constant FUNDS = 10 ** 30;
    uint40 internal constant DELAY = 1 hours;

    Channels internal immutable channels = Channels(CHANNELS);
    Erc3009Collector internal immutable collector = new Erc3009Collector();
    DevDollar internal immutable dollars = newDollars();
    IFeeToken internal immutable token = IFeeToken(address(dollars));
    Settlement internal immutable settlement;
    Court internal immutable court;
    address internal immutable aggregator = vm.addr(AGGREGATOR_KEY);
    address internal immutable owner = address(0x0113);
    address internal immutable watcher = address(0x7A7C);
    address internal immutable operator = vm.addr(OPERATOR_KEY);
    address internal immutable payer = vm.addr(PAYER_KEY);

    uint256 private _salt;

    constructor() {
        vm.etch(CHANNELS, address(new Channels()).code);
        vm.warp(1_000_000);
        settlement = new Settlement(
            Board(owner, aggregator, new address[](0), 0),
            IChannels(CHANNELS),
            token,
            Terms(WINDOW, ANSWER_TIME, SILENCE, TIMELOCK, BOND, DEMAND_FEE)
        );
        court = Court(settlement.court());
        dollars.mint(payer, FUNDS);
        dollars.mint(watcher, 10 ** 9);
        fundBond();
    }

    /// @dev The token that fees are paid in here.
    function newDollars() internal virtual returns (DevDollar) {
        return new DevDollar();
    }

    /// @dev Puts up a bond for whoever is aggregator.
    function fundBond() internal {
        dollars.mint(address(this), BOND);
        dollars.approve(address(settlement), BOND);
        settlement.fundBond(BOND);
    }

    /// @dev Binds a header to no branch of the chain and to no time.
    function anywhere() internal pure returns (Anchor memory) {
        return Anchor(type(uint64).max, 0, type(uint64).max);
    }

    /// @dev The channel number `number` of a payer to the settlement contract.
    function channel(address from, uint256 number) internal view returns (ChannelConfig memory) {
        return ChannelConfig({
            payer: from,
            payerAuthorizer: from,
            receiver: address(settlement),
            receiverAuthorizer: operator,
            token: address(token),
            withdrawDelay: DELAY,
            salt: bytes32(bytes20(operator)) | bytes32(uint256(uint96(number)))
        });
    }

    /// @dev Deposits by the payer's ERC-3009 signature, as clients do.
    function deposit(uint256 key, ChannelConfig memory config, uint128 amount) internal {
        channels.deposit(
            config,
            amount,
            address(collector),
            authorize(key, channels.getChannelId(config), amount, ++_salt)
        );
    }

    /// @dev What the collector needs to bring this deposit into this channel.
    function authorize(uint256 key, ChannelId channelId, uint128 amount, uint256 salt)
        internal
        view
        returns (bytes memory)
    {
        bytes32 structHash = vm.eip712HashStruct(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
            "uint256 validBefore,bytes32 nonce)",
            abi.encode(
                vm.addr(key),
                address(collector),
                amount,
                0,
                type(uint256).max,
                keccak256(abi.encode(channelId, salt))
            )
        );
        bytes32 digest =
            keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
        return abi.encode(0, type(uint256).max, salt, signed(key, digest));
    }

    /// @dev A voucher of this channel for `limit`, of which `total` is taken.
    function voucher(uint256 key, ChannelConfig memory config, uint128 limit, uint128 total)
        internal
        view
        returns (VoucherClaim[] memory claims)
    {
        bytes32 digest = channels.getVoucherDigest(channels.getChannelId(config), limit);
        claims = new VoucherClaim[](1);
        claims[0] = VoucherClaim(Voucher(config, limit), signed(key, digest), total);
    }

    /// @dev Has the receiver side take this much of a channel, in all.
    function claim(ChannelConfig memory config, uint128 total) internal {
        VoucherClaim[] memory claims = voucher(PAYER_KEY, config, total, total);
        vm.prank(operator);
        channels.claim(claims);
    }

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev Brings fees to the settlement contract the way they come: deposit, voucher, claim.
    function earn(uint128 amount) internal {
        ChannelConfig memory config = channel(payer, uint256(keccak256(abi.encode(++_salt))));
        deposit(PAYER_KEY, config, amount);
        claim(config, amount);
    }
}
