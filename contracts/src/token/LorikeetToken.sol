// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title The network's own token: staked by nodes, voted with, and good for fees.
/// @notice All of it exists from the first block and belongs to whom the constructor names. Nobody
/// can make more, no use of the network does: it only ever gets less, where stake is burned.
///
/// Votes are counted by seconds of the chain's clock, not by blocks, which chains make at different
/// rates. Who holds it votes once he has delegated, to himself or to somebody else.
///
/// A fee token like any other (`IFeeToken`): a payer signs a deposit that others relay (ERC-3009),
/// and all of it fits an amount of a receipt, which is below 2^63.
contract LorikeetToken is ERC20Burnable, ERC20Permit, ERC20Votes, ERC3009 {
    /// @notice How much there is at most: a billion, with 6 decimals.
    uint256 public constant SUPPLY = 1_000_000_000e6;

    constructor(address holder) ERC20("Lorikeet", "LORI") ERC20Permit("Lorikeet") {
        _mint(holder, SUPPLY);
    }

    function decimals() public pure override returns (uint8) {
        return 6;
    }

    /// @notice The clock of votes (ERC-6372): seconds.
    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    /// @notice How ERC-6372 says that the clock is one of seconds.
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 amount)
        internal
        override(ERC20, ERC20Votes)
    {
        super._update(from, to, amount);
    }
}
