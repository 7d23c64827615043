// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ChannelId} from "../types/Channel.sol";

/// @title A way to bring a payer's tokens to the channels contract.
interface ICollector {
    /// @notice Moves exactly `amount` of `token` from `payer` to the caller, for the channel
    /// `channelId`.
    /// @param data what the payer signed; each collector has its own encoding
    function collect(
        address payer,
        address token,
        uint256 amount,
        ChannelId channelId,
        bytes calldata data
    ) external;
}
