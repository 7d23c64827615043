// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ChannelConfig, ChannelId} from "./Channel.sol";

/// @notice What the parties of a channel sign about one answer. `body` is the sha-256 of the whole
/// receipt, which the contract never sees; `payouts` commits to who is owed what of the channel.
struct Receipt {
    ChannelId channelId;
    uint64 sequence; // from 1, in this channel
    uint128 cumulative; // what the channel's receipts cost so far, this one included
    bytes32 payouts; // commitment of the channel's payouts after this receipt
    bytes32 body;
}

/// @notice What the aggregator signs when it takes a receipt: "a header posted by `deadline`
/// includes it", or the first that is posted later.
struct Promise {
    ChannelId channelId;
    uint64 sequence;
    uint128 cumulative;
    bytes32 body;
    uint64 deadline; // Unix seconds
}

/// @notice A promise with everything that is needed to keep it, whatever its giver has forgotten.
struct Reminder {
    Promise pledge;
    bytes signature; // the aggregator's
    ChannelConfig config;
    bytes32 payouts; // as the receipt says
    bytes body; // of the receipt
    bytes nodeSignature; // under the receipt
    bytes manifest; // of the adapter that the body names; empty for the bare base
}
