// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Demands} from "./court/Demands.sol";
import {Promises} from "./court/Promises.sol";
import {Proofs} from "./court/Proofs.sol";
import {IChannels} from "./interfaces/IChannels.sol";
import {ICourt} from "./interfaces/ICourt.sol";
import {Terms} from "./interfaces/IOffice.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";

/// @title Judges headers: the one address that the settlement contract lets convict.
/// @notice A contract of its own because one has at most 24,576 bytes. It holds nothing but the fees
/// of open demands, and what is lost of others'. The settlement contract creates it, and neither can be given another.
contract Court is Promises, ICourt {
    constructor(ISettlement settlement_, IChannels channels_, address token_, Terms memory terms)
        Proofs(settlement_, channels_, token_)
        Demands(terms)
    {}
}
