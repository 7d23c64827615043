// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {LorikeetToken} from "../src/token/LorikeetToken.sol";
import {Checks} from "./Checks.sol";

contract TokenTest is Checks {
    uint256 private constant KEY = 0x70CE;
    bytes32 private constant NONCE = keccak256("a nonce");

    LorikeetToken private immutable token = new LorikeetToken(address(this));
    address private immutable holder = vm.addr(KEY);

    function test_all_of_it_exists_from_the_beginning() external view {
        checkEqual(token.totalSupply(), token.SUPPLY(), "as much as it says");
        checkEqual(token.balanceOf(address(this)), token.SUPPLY(), "with whom it was given to");
    }

    function test_burning_makes_it_less_for_ever(uint256 amount) external {
        amount = bound(amount, 0, token.SUPPLY());
        token.burn(amount);
        checkEqual(token.totalSupply(), token.SUPPLY() - amount, "there is less");
    }

    function test_a_permit_allows_once(uint256 amount) external {
        amount = bound(amount, 1, token.SUPPLY());
        bytes32 digest = _permit(amount);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest);
        token.permit(holder, address(this), amount, type(uint256).max, v, r, s);
        checkEqual(token.allowance(holder, address(this)), amount, "as was signed");
        vm.expectPartialRevert(bytes4(keccak256("ERC2612InvalidSigner(address,address)")));
        token.permit(holder, address(this), amount, type(uint256).max, v, r, s);
    }

    function test_all_of_it_is_less_than_an_amount_may_be() external view {
        checkEqual(token.decimals(), 6, "as the stable token has");
        check(token.SUPPLY() < 1 << 63, "receipts and vouchers hold any of it");
    }

    function test_an_authorization_moves_money_and_votes_once(uint256 amount, address relay)
        external
    {
        amount = bound(amount, 1, token.SUPPLY());
        require(token.transfer(holder, amount));
        vm.prank(holder);
        token.delegate(holder);
        address to = address(0x2);
        vm.prank(to);
        token.delegate(to);
        (uint8 v, bytes32 r, bytes32 s) = _authorize("Transfer", to, amount, block.timestamp + 1);
        vm.prank(relay);
        token.transferWithAuthorization(holder, to, amount, 0, block.timestamp + 1, NONCE, v, r, s);
        checkEqual(token.balanceOf(to), amount, "whoever relays it");
        checkEqual(token.getVotes(to), amount, "with its votes");
        checkEqual(token.getVotes(holder), 0, "which the other has no more");
        checkEqual(token.totalSupply(), token.SUPPLY(), "and none is made or lost");
        require(token.transfer(holder, token.balanceOf(address(this))));
        vm.expectPartialRevert(bytes4(keccak256("ERC3009UsedAuthorization(address,bytes32)")));
        token.transferWithAuthorization(holder, to, amount, 0, block.timestamp + 1, NONCE, v, r, s);
    }

    function test_an_authorization_is_for_what_was_signed(uint256 amount, uint256 other) external {
        amount = bound(amount, 1, token.SUPPLY() / 2);
        other = bound(other, amount + 1, token.SUPPLY());
        require(token.transfer(holder, token.SUPPLY()));
        uint256 until = block.timestamp + 10;
        (uint8 v, bytes32 r, bytes32 s) = _authorize("Receive", address(this), amount, until);
        vm.expectPartialRevert(bytes4(keccak256("ERC3009InvalidSignature()")));
        token.receiveWithAuthorization(holder, address(this), other, 0, until, NONCE, v, r, s);
        vm.expectPartialRevert(bytes4(keccak256("ERC3009InvalidSignature()")));
        token.transferWithAuthorization(holder, address(this), amount, 0, until, NONCE, v, r, s);
        vm.expectPartialRevert(bytes4(keccak256("ERC20InvalidReceiver(address)")));
        vm.prank(address(0x3)); // who would take another's deposit out of its transaction
        token.receiveWithAuthorization(holder, address(this), amount, 0, until, NONCE, v, r, s);
        vm.warp(until);
        vm.expectPartialRevert(
            bytes4(keccak256("ERC3009InvalidAuthorizationTime(uint256,uint256)"))
        );
        token.receiveWithAuthorization(holder, address(this), amount, 0, until, NONCE, v, r, s);
        checkEqual(token.balanceOf(holder), token.SUPPLY(), "nothing moved");
    }

    function test_an_authorization_that_was_taken_back_moves_nothing() external {
        require(token.transfer(holder, 1));
        uint256 until = block.timestamp + 10;
        (uint8 v, bytes32 r, bytes32 s) = _authorize("Transfer", address(this), 1, until);
        (uint8 cv, bytes32 cr, bytes32 cs) = vm.sign(
            KEY,
            _digest(
                "CancelAuthorization(address authorizer,bytes32 nonce)", abi.encode(holder, NONCE)
            )
        );
        token.cancelAuthorization(holder, NONCE, cv, cr, cs);
        vm.expectPartialRevert(bytes4(keccak256("ERC3009UsedAuthorization(address,bytes32)")));
        token.transferWithAuthorization(holder, address(this), 1, 0, until, NONCE, v, r, s);
    }

    /// @dev Whatever is sent and delegated: an account has the votes of those who delegated to it,
    /// and all votes together are what delegating accounts hold.
    function test_votes_conserve(uint256[8] calldata steps) external {
        address[3] memory people = [address(this), address(0x1), address(0x2)];
        address[3] memory voices; // whom each delegated to
        for (uint256 i = 0; i < steps.length; i++) {
            address from = people[steps[i] % 3];
            uint256 other = (steps[i] >> 8) % 3;
            uint256 amount = _part(from, steps[i] >> 24); // a call, which would use up the prank
            vm.prank(from);
            if ((steps[i] >> 16) % 2 == 0) {
                voices[steps[i] % 3] = people[other];
                token.delegate(people[other]);
            } else {
                require(token.transfer(people[other], amount));
            }
            for (uint256 k = 0; k < 3; k++) {
                uint256 votes = 0;
                for (uint256 n = 0; n < 3; n++) {
                    if (voices[n] == people[k]) votes += token.balanceOf(people[n]);
                }
                checkEqual(token.getVotes(people[k]), votes, "those of who delegated to it");
            }
        }
    }

    function test_past_votes_are_of_a_second() external {
        token.delegate(address(this));
        uint256 then = block.timestamp;
        vm.warp(then + 10);
        require(token.transfer(address(0x1), 1));
        vm.warp(then + 11);
        checkEqual(token.getPastVotes(address(this), then + 9), token.SUPPLY(), "before");
        checkEqual(token.getPastVotes(address(this), then + 10), token.SUPPLY() - 1, "after");
    }

    function _part(address from, uint256 seed) private view returns (uint256) {
        return bound(seed, 0, token.balanceOf(from));
    }

    function _permit(uint256 amount) private view returns (bytes32) {
        return _digest(
            "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)",
            abi.encode(holder, address(this), amount, token.nonces(holder), type(uint256).max)
        );
    }

    /// @dev The holder's word that `amount` may go to `to`, by ERC-3009, until then.
    function _authorize(string memory kind, address to, uint256 amount, uint256 until)
        private
        view
        returns (uint8, bytes32, bytes32)
    {
        string memory declared = string.concat(
            kind,
            "WithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
            "uint256 validBefore,bytes32 nonce)"
        );
        bytes32 digest = _digest(declared, abi.encode(holder, to, amount, 0, until, NONCE));
        return vm.sign(KEY, digest);
    }

    function _digest(string memory declared, bytes memory values) private view returns (bytes32) {
        bytes32 structHash = vm.eip712HashStruct(declared, values);
        return keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
    }
}
