// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";

/// @title What the token in which fees are paid must be able to do. USDC is one.
/// @notice ERC-3009 lets a payer sign a deposit that somebody else relays and pays the gas for.
interface IFeeToken is IERC20, IERC3009 {
    /// @notice The EIP-712 domain that the token's signatures are bound to.
    function DOMAIN_SEPARATOR() external view returns (bytes32);
}
