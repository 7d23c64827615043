// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {IChannels} from "../interfaces/IChannels.sol";
import {ChannelConfig, ChannelId} from "../types/Channel.sol";
import {Receipt} from "../types/Receipt.sol";
import {Digests} from "./Digests.sol";

/// @title What a receipt shows of its channel, by what the chain knows.
library Receipts {
    function isSame(ChannelId left, ChannelId right) internal pure returns (bool) {
        return ChannelId.unwrap(left) == ChannelId.unwrap(right);
    }

    /// @notice Whether this config is the one that the channel's id is the digest of.
    function isConfigOf(IChannels channels, ChannelId id, ChannelConfig calldata config)
        internal
        view
        returns (bool)
    {
        return isSame(channels.getChannelId(config), id);
    }

    /// @notice Whether the channel pays the settlement contract, in the fee token. Its receiver
    /// authorizer, who alone can claim and refund, is the operator. An honest aggregator takes no other.
    function isOurs(ChannelConfig calldata config, address settlement, address token)
        internal
        pure
        returns (bool)
    {
        return config.receiver == settlement && config.token == token;
    }

    /// @notice Who signed this receipt; zero where the signature is none.
    function signerOf(Receipt memory receipt, bytes calldata signature, address settlement)
        internal
        view
        returns (address signer)
    {
        (signer,,) = ECDSA.tryRecoverCalldata(Digests.ofReceipt(receipt, settlement), signature);
    }

    /// @notice What was claimed of a channel, since the beginning. It never falls.
    function claimedOf(IChannels channels, ChannelId id)
        internal
        view
        returns (uint128 totalClaimed)
    {
        (, totalClaimed) = channels.channels(id);
    }
}
