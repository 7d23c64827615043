// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {ICollector} from "../src/interfaces/ICollector.sol";
import {ChannelId} from "../src/types/Channel.sol";

/// @title Brings a payer's tokens to the channels by an ERC-3009 authorisation, so that the payer
/// needs no gas.
/// @notice Keeps nothing between calls. The authorisation's nonce is keccak(channelId, salt):
/// whoever relays a signature can put the money into the one channel it was signed for and nowhere
/// else.
contract Erc3009Collector is ICollector {
    using SafeERC20 for IERC20;

    /// @dev The address to which x402 clients bind their signatures, the same on every chain.
    address public constant CHANNELS = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003;

    /// @notice Only the channels contract may collect a deposit.
    error NotChannels(address caller);
    /// @notice An ERC-3009 signature must be 65 bytes long.
    error BadSignatureLength(uint256 length);

    /// @inheritdoc ICollector
    function collect(
        address payer,
        address token,
        uint256 amount,
        ChannelId channelId,
        bytes calldata data
    ) external {
        require(msg.sender == CHANNELS, NotChannels(msg.sender));
        (uint256 validAfter, uint256 validBefore, uint256 salt, bytes memory signature) =
            abi.decode(data, (uint256, uint256, uint256, bytes));
        (uint8 v, bytes32 r, bytes32 s) = _split(signature);
        bytes32 nonce = keccak256(abi.encode(channelId, salt));
        IERC3009(token)
            .receiveWithAuthorization(
                payer, address(this), amount, validAfter, validBefore, nonce, v, r, s
            );
        IERC20(token).safeTransfer(CHANNELS, amount);
    }

    function _split(bytes memory signature) private pure returns (uint8 v, bytes32 r, bytes32 s) {
        require(signature.length == 65, BadSignatureLength(signature.length));
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
            v := byte(0, mload(add(signature, 96)))
        }
    }
}
