// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

/// @title Pretend dollars for development chains. They are worth nothing and anybody can make more.
/// @notice Behaves like USDC where Lorikeet looks: 6 decimals, permit, and ERC-3009, which the x402
/// client signs. The faucet is why the constructor refuses every chain id but those of development
/// chains.
contract DevDollar is ERC20, ERC20Permit, ERC3009 {
    /// @notice DevDollar has an open faucet and exists on development chains (ids 1337 and 31337)
    /// only.
    error NotADevelopmentChain(uint256 chainId);

    constructor() ERC20("Dev Dollar", "DEVUSD") ERC20Permit("Dev Dollar") {
        require(
            block.chainid == 1337 || block.chainid == 31337, NotADevelopmentChain(block.chainid)
        );
    }

    /// @notice The faucet: gives `account` new pretend dollars, whoever asks.
    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
