// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SumTree} from "../src/libraries/SumTree.sol";
import {ChannelConfig, ChannelId} from "../src/types/Channel.sol";
import {Header} from "../src/types/Header.sol";
import {PayoutTree} from "./PayoutTree.sol";
import {World} from "./World.sol";

/// @title Everybody, honest or not, in any order. Whatever may be refused is tried all the same;
/// what is refused is not counted as done.
contract SolvencyTest is World {
    uint256 private constant NUM_CHANNELS = 3;
    uint128 private constant MOST = 1_000;
    uint256 private constant FULL_RUN = 1024; // the depth that foundry.toml sets

    address[] private accounts = [address(1001), address(1002), address(1003), address(1004)];
    bytes4[] private operations = [
        this.makeDeposit.selector,
        this.claimVoucher.selector,
        this.settleFees.selector,
        this.postHeader.selector,
        this.claimPayout.selector,
        this.startWithdrawal.selector,
        this.finishWithdrawal.selector,
        this.giveBack.selector,
        this.donate.selector
    ];
    mapping(bytes4 operation => uint256) private numSucceeded;
    uint256 private numTried;

    modifier counted() {
        numTried++;
        _;
    }

    error NeverSucceeded(bytes4 operation);

    /// @dev As forge asks for it: which functions of a contract it is to call.
    struct Selectors {
        address target;
        bytes4[] selectors;
    }

    struct Award {
        Header header;
        uint128[] amounts;
    }

    Award[] private _posted;
    uint128[] private _amounts = new uint128[](4);

    // ── what holds after each of them ────────────────────────────────────────────────────────────

    function invariant_money_is_neither_made_nor_lost_nor_paid_twice() external view {
        _settlementOwesNoMoreThanItReceived();
        _accountsHaveWhatTheBooksSay();
        _channelsHoldWhatTheyOwe();
    }

    function _settlementOwesNoMoreThanItReceived() private view {
        uint256 received = token.balanceOf(address(settlement)) + settlement.totalPaid();
        check(settlement.totalPaid() <= settlement.payoutTotal(), "paid within the awards");
        check(settlement.payoutTotal() <= received, "awarded within what came");
    }

    function _accountsHaveWhatTheBooksSay() private view {
        uint256 total = 0;
        for (uint256 i = 0; i < accounts.length; i++) {
            uint256 paid = settlement.claimed(accounts[i]);
            checkEqual(token.balanceOf(accounts[i]), paid, "an account has what it was paid");
            total += paid;
        }
        checkEqual(settlement.totalPaid(), total, "all of them together");
    }

    function _channelsHoldWhatTheyOwe() private view {
        (uint128 claimed, uint128 settled) =
            channels.receivers(address(settlement), address(token));
        uint256 owed = claimed - settled;
        uint256 claimedOfAll = 0;
        for (uint256 i = 0; i < NUM_CHANNELS; i++) {
            (uint128 balance, uint128 taken) =
                channels.channels(channels.getChannelId(_channel(i)));
            check(taken <= balance, "a channel pays no more than it holds");
            owed += balance - taken;
            claimedOfAll += taken;
        }
        checkEqual(token.balanceOf(address(channels)), owed, "to the last unit");
        checkEqual(claimed, claimedOfAll, "what was claimed went to the receiver");
    }

    /// @dev Properties that nothing ever challenged would hold as well. A short sequence is one
    /// that forge shrank or tries again.
    function afterInvariant() external view {
        if (numTried < FULL_RUN) return;
        for (uint256 i = 0; i < operations.length; i++) {
            require(numSucceeded[operations[i]] > 0, NeverSucceeded(operations[i]));
        }
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(this);
    }

    function targetSelectors() external view returns (Selectors[] memory targets) {
        targets = new Selectors[](1);
        targets[0].target = address(this);
        targets[0].selectors = operations;
    }

    // ── what can happen ──────────────────────────────────────────────────────────────────────────

    function makeDeposit(uint256 number, uint128 amount) external counted {
        deposit(PAYER_KEY, _channel(number), uint128(bound(amount, 1, MOST)));
        numSucceeded[msg.sig]++;
    }

    /// @dev Sometimes more than the channel holds.
    function claimVoucher(uint256 number, uint128 total) external counted {
        ChannelConfig memory config = _channel(number);
        (uint128 balance, uint128 before) = channels.channels(channels.getChannelId(config));
        total = uint128(bound(total, 1, uint256(before) + MOST / 4));
        try this.claimAs(config, total) {
            check(total <= balance, "no channel pays more than it holds");
            if (total > before) numSucceeded[msg.sig]++;
        } catch {}
    }

    function settleFees() external counted {
        uint256 before = token.balanceOf(address(settlement));
        channels.settle(address(settlement), address(token));
        if (token.balanceOf(address(settlement)) > before) numSucceeded[msg.sig]++;
    }

    /// @dev Awards a little more, or far too much; sometimes moves an award to another account.
    function postHeader(uint256 index, uint128 more, bool moves) external counted {
        index = index % accounts.length;
        uint128[] memory amounts = _amounts;
        amounts[index] += uint128(bound(more, 0, MOST / 4));
        if (moves && more % 4 == 0) {
            uint256 to = (index + 1) % accounts.length;
            (amounts[to], amounts[index]) = (amounts[to] + amounts[index], 0);
        }
        (uint128 total, bytes32 root) = PayoutTree.rootOf(accounts, amounts, 0, amounts.length);
        uint64 last = settlement.lastEpoch();
        Header memory header = Header({
            epoch: last + 1,
            previous: settlement.headerHashes(last),
            receiptsRoot: bytes32("receipts"),
            numReceipts: settlement.numReceipts() + 1,
            payoutRoot: root,
            payoutTotal: total,
            batchDigest: bytes32("batch")
        });
        vm.prank(aggregator);
        try settlement.post(header) {
            numSucceeded[msg.sig]++;
            _amounts = amounts;
            _posted.push(Award(header, amounts));
        } catch {}
    }

    /// @dev Under any header that was ever posted, not only the last.
    function claimPayout(uint256 which, uint256 index) external counted {
        if (_posted.length == 0) return;
        Award memory award = _posted[which % _posted.length];
        index = index % accounts.length;
        SumTree.Sibling[] memory proof = PayoutTree.prove(accounts, award.amounts, index);
        try settlement.claim(award.header, accounts[index], award.amounts[index], proof) {
            numSucceeded[msg.sig]++;
        } catch {}
    }

    function startWithdrawal(uint256 number, uint128 amount) external counted {
        vm.prank(payer);
        try channels.initiateWithdraw(_channel(number), uint128(bound(amount, 1, MOST / 10))) {
            numSucceeded[msg.sig]++;
        } catch {}
    }

    function finishWithdrawal(uint256 number, uint256 waited) external counted {
        vm.warp(block.timestamp + bound(waited, 0, 3 * uint256(DELAY)));
        vm.prank(payer);
        try channels.finalizeWithdraw(_channel(number)) {
            numSucceeded[msg.sig]++;
        } catch {}
    }

    function giveBack(uint256 number, uint128 amount) external counted {
        uint256 before = token.balanceOf(payer);
        vm.prank(operator);
        channels.refund(_channel(number), uint128(bound(amount, 1, MOST / 10)));
        if (token.balanceOf(payer) > before) numSucceeded[msg.sig]++;
    }

    /// @dev Money that nobody asked for must not confuse the books.
    function donate(uint128 amount) external counted {
        dollars.mint(address(settlement), bound(amount, 0, MOST / 100));
        numSucceeded[msg.sig]++;
    }

    /// @dev From outside, so that it can be tried.
    function claimAs(ChannelConfig calldata config, uint128 total) external {
        claim(config, total);
    }

    function _channel(uint256 number) private view returns (ChannelConfig memory) {
        return channel(payer, number % NUM_CHANNELS);
    }
}
