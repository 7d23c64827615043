// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDemands} from "./IDemands.sol";
import {IProofs} from "./IProofs.sol";
import {IPromises} from "./IPromises.sol";

/// @title What the court can be told and asked: proofs of lies, demands, and promises.
interface ICourt is IProofs, IDemands, IPromises {}
