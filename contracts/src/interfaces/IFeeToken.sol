// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";

/// @title What the token in which fees are paid must be able to do. USDC is one, LORI another.
/// @notice ERC-3009 lets a payer sign a deposit that somebody else relays and pays the gas for.
interface IFeeToken is IERC20Metadata, IERC3009 {
    /// @notice The EIP-712 domain that the token's signatures are bound to.
    function DOMAIN_SEPARATOR() external view returns (bytes32);
}
