// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IExits} from "./IExits.sol";
import {IHeaders} from "./IHeaders.sol";
import {IOffice} from "./IOffice.sol";

/// @title What the settlement contract can be told and asked.
/// @notice Fees of channels come in, headers commit to who is owed what of them, whoever shows a
/// proof under a final one has its account paid, and a channel whose aggregator is gone settles
/// itself. Lies are shown to the court (ICourt).
interface ISettlement is IOffice, IHeaders, IExits {}
