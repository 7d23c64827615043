// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DevDollar} from "../dev/DevDollar.sol";
import {ExitRequest} from "../src/interfaces/IExits.sol";
import {Part, Question} from "../src/interfaces/IDemands.sol";
import {PostedHeader} from "../src/types/Header.sol";
import {AccountProof} from "../src/types/Leaves.sol";
import {Books} from "./Books.sol";

/// @dev A token that calls whom it is told, once, when it has moved, and that blocks an account.
contract HookedDollar is DevDollar {
    address private _target;
    bytes private _call;
    address private _refused;
    uint256 public numCalls;
    bool public succeeded;

    function hook(address target, bytes calldata call) external {
        (_target, _call) = (target, call);
    }

    function refuse(address account) external {
        _refused = account;
    }

    function _update(address from, address to, uint256 value) internal override {
        require(to != _refused || to == address(0), "refused");
        super._update(from, to, value);
        if (_target == address(0)) return;
        address target = _target;
        _target = address(0);
        numCalls++;
        (succeeded,) = target.call(_call);
    }
}

/// @title Whatever pays does its books first: what is called again while it pays, pays nothing more.
/// Whom the token refuses is paid later.
contract ReentrancyTest is Books {
    uint128 private constant FUND = 100_000;

    function newDollars() internal override returns (DevDollar) {
        return new HookedDollar();
    }

    function test_a_claim_pays_once() external {
        (Book memory book, PostedHeader memory here) = _begin();
        vm.warp(here.postedAt + WINDOW);
        AccountProof memory proof = showAccount(book, 0);
        _hook(
            address(settlement), abi.encodeCall(settlement.claim, (here, proof.leaf, proof.proof))
        );
        settlement.claim(here, proof.leaf, proof.proof);
        _calledInVain();
        checkEqual(token.balanceOf(accountAt(0)), proof.leaf.amount, "once");
    }

    function test_an_exit_pays_once() external {
        (Book memory before, PostedHeader memory here) = _begin();
        Book memory book = write(amountsOf(1, 500), 2);
        for (uint256 a = 0; a < NUM_ACCOUNTS; a++) {
            book.payouts[0][a].amount += 1_000;
        }
        sign(book, 0, 2);
        ExitRequest memory request = exitOf(book, 0, before, here, true);
        silence();
        _hook(address(settlement), abi.encodeCall(settlement.exit, (request)));
        settlement.exit(request);
        _calledInVain();
        checkEqual(token.balanceOf(accountAt(0)), 1_000, "once");
    }

    function test_an_account_that_the_token_refuses_holds_up_nobody() external {
        (Book memory before, PostedHeader memory here) = _begin();
        Book memory book = write(amountsOf(1, 500), 2);
        (book.payouts[0][0].amount, book.payouts[0][1].amount) = (2_000, 3_000);
        sign(book, 0, 2);
        silence();
        HookedDollar(address(dollars)).refuse(accountAt(0));
        settlement.exit(exitOf(book, 0, before, here, true));
        uint256 credited = 2_000 - before.payouts[0][0].amount;
        checkEqual(settlement.credit(accountAt(0)), credited, "credited");
        check(token.balanceOf(accountAt(1)) > 0, "the others are paid");
        HookedDollar(address(dollars)).refuse(address(0));
        settlement.collect(accountAt(0));
        checkEqual(token.balanceOf(accountAt(0)), credited, "and paid when it can be");
    }

    function test_a_released_bond_is_collected_once() external {
        silence();
        settlement.dismiss();
        _hook(address(settlement), abi.encodeCall(settlement.collect, (aggregator)));
        settlement.collect(aggregator);
        _calledInVain();
        checkEqual(token.balanceOf(aggregator), BOND, "once");
    }

    function test_a_demand_is_paid_for_and_answered_once() external {
        (Book memory book, PostedHeader memory here) = _begin();
        Question memory question = Question(Part.CHANNEL, 0, 0);
        vm.startPrank(watcher);
        token.approve(address(court), 2 * DEMAND_FEE);
        court.demand(here, question);
        vm.stopPrank();
        bytes memory again = abi.encodeCall(
            court.answerChannel, (here, showChannel(book, 0), book.configs[0], book.signatures[0])
        );
        _hook(address(court), again);
        court.answerChannel(here, showChannel(book, 0), book.configs[0], book.signatures[0]);
        _calledInVain();
        checkEqual(token.balanceOf(address(this)), DEMAND_FEE / 2, "once");
    }

    function test_a_conviction_pays_once() external {
        (Book memory book, PostedHeader memory here) = _begin();
        book.channels[0].channelId = book.channels[1].channelId;
        PostedHeader memory lying = PostedHeader(headerOf(book), 0);
        lying.header.payoutTotal++;
        lying = post(lying.header);
        bytes memory again = abi.encodeCall(
            court.proveChannelTwice, (lying, here, showChannel(book, 0), showChannel(book, 1))
        );
        _hook(address(court), again);
        court.proveChannelTwice(lying, here, showChannel(book, 0), showChannel(book, 1));
        _calledInVain();
        checkEqual(token.balanceOf(address(this)), BOND / 2, "once");
    }

    function _begin() private returns (Book memory book, PostedHeader memory here) {
        fundAll(FUND);
        book = write(amountsOf(1, 500), 1);
        here = post(book);
    }

    function _hook(address target, bytes memory call) private {
        HookedDollar(address(dollars)).hook(target, call);
    }

    function _calledInVain() private view {
        HookedDollar hooked = HookedDollar(address(dollars));
        checkEqual(hooked.numCalls(), 1, "the token called back");
        check(!hooked.succeeded(), "and was refused");
    }
}
