// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {Court} from "./Court.sol";
import {IChannels} from "./interfaces/IChannels.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {Board, Terms} from "./interfaces/IOffice.sol";
import {Exits} from "./settlement/Exits.sol";
import {Office} from "./settlement/Office.sol";

/// @title Receives the channels' fees, keeps the aggregator's header chain, and pays accounts their
/// shares by proof.
/// @notice What holds, and why:
///
/// - Never insolvent. What headers award and what exits pay, together, never exceeds what was
///   claimed of channels for this contract: checked when a header is posted and when an exit is
///   paid. Bonds and fees of demands lie here too, and are counted apart.
/// - No channel pays more than was claimed of it. An exit is checked against the channel itself; a
///   header that says otherwise is taken back by one proof.
/// - No double payment. What a header pays an account is cumulative; what an exit pays goes on from
///   where a final header left the channel, which no later header moves.
/// - Nothing waits for one party. A silent or convicted aggregator leaves the office vacant, and
///   channels settle by their last receipts.
///
///     Office    who posts headers, what it pledges, how the office changes hands
///     Headers   the chain of headers, and claims under final ones
///     Exits     a channel settles itself
///     Court     a proof for each lie, and what must be shown on demand; a contract of its own
contract Settlement is Exits, ISettlement {
    constructor(Board memory board, IChannels channels_, IERC20 token_, Terms memory terms_)
        Office(
            board,
            channels_,
            token_,
            terms_,
            address(new Court(ISettlement(address(this)), channels_, address(token_), terms_))
        )
    {}
}
