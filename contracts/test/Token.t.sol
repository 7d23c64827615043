// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {LorikeetToken} from "../src/token/LorikeetToken.sol";
import {Checks} from "./Checks.sol";

contract TokenTest is Checks {
    uint256 private constant KEY = 0x70CE;

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
        bytes32 structHash = vm.eip712HashStruct(
            "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)",
            abi.encode(holder, address(this), amount, token.nonces(holder), type(uint256).max)
        );
        return keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
    }
}
