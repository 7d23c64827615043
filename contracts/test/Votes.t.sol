// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";

import {Change} from "../src/interfaces/IParameters.sol";
import {Assembly} from "./Assembly.sol";
import {Sequences} from "./Sequences.sol";

/// @title Everybody who holds the token, in any order, and somebody who tries to get past a vote.
/// @dev What is refused is not counted as done. Time only passes through `passTime`.
contract VotesTest is Assembly, Sequences {
    uint256 private constant NUM_PEOPLE = 5;

    /// @dev A proposal to set the floor of prices to its own number.
    struct Proposal {
        uint256 id;
        uint256 votes; // cast, as this test counts them
        bool isQueued;
        bool isExecuted;
    }

    bytes4[] private _operations = [
        this.send.selector,
        this.delegate.selector,
        this.burn.selector,
        this.proposeFloor.selector,
        this.vote.selector,
        this.queue.selector,
        this.execute.selector,
        this.passTime.selector,
        this.pause.selector
    ];
    Proposal[] private proposals;
    mapping(uint256 person => uint256) private voices; // whom each delegated to, from 1
    mapping(uint256 place => mapping(uint256 person => bool)) private hasVoted;
    uint256 private lastFloor; // the last one that was executed
    uint256 private numExecuted;

    modifier counted() {
        numTried++;
        _;
    }

    constructor() {
        for (uint256 p = 0; p < NUM_PEOPLE; p++) {
            require(lori.transfer(person(p), lori.SUPPLY() / NUM_PEOPLE));
        }
    }

    // ── what holds after each of them ────────────────────────────────────────────────────────────

    function invariant_votes_conserve_and_nothing_is_written_without_them() external view {
        _checkVotes();
        _checkCounts();
        _checkWritten();
        _checkExecuted();
    }

    /// @dev An account has the votes of those who delegated to it.
    function _checkVotes() private view {
        uint256 all = 0;
        for (uint256 p = 0; p < NUM_PEOPLE; p++) {
            uint256 votes = 0;
            for (uint256 q = 0; q < NUM_PEOPLE; q++) {
                if (voices[q] == p + 1) votes += lori.balanceOf(person(q));
            }
            checkEqual(lori.getVotes(person(p)), votes, "no vote is made or lost");
            all += votes;
        }
        check(all <= lori.totalSupply(), "nor are there more than there is of the token");
    }

    /// @dev No proposal has more votes than were cast.
    function _checkCounts() private view {
        for (uint256 i = 0; i < proposals.length; i++) {
            (uint256 against, uint256 inFavour, uint256 abstain) =
                governor.proposalVotes(proposals[i].id);
            checkEqual(against + inFavour + abstain, proposals[i].votes, "as many as were cast");
        }
    }

    /// @dev Parameters are what was executed.
    function _checkWritten() private view {
        checkEqual(parameters.version(), 1 + numExecuted, "a version for each");
        checkEqual(valueOf(FLOOR), lastFloor, "the last one's value");
        checkEqual(valueOf(SHARE), 6_000, "and nobody changed anything else");
    }

    /// @dev What is executed was voted for, and waited.
    function _checkExecuted() private view {
        for (uint256 i = 0; i < proposals.length; i++) {
            if (!proposals[i].isExecuted) continue;
            (uint256 against, uint256 inFavour,) = governor.proposalVotes(proposals[i].id);
            check(inFavour > against, "by more than were against it");
            uint256 then = governor.proposalSnapshot(proposals[i].id);
            check(proposals[i].votes >= governor.quorum(then), "by enough");
            check(proposals[i].isQueued, "after its time in the timelock");
        }
    }

    function operations() internal view override returns (bytes4[] memory) {
        return _operations;
    }

    // ── what people do ───────────────────────────────────────────────────────────────────────────

    function send(uint256 from, uint256 to, uint256 amount) external counted {
        amount = bound(amount, 0, lori.balanceOf(person(from)) / 4);
        vm.prank(person(from));
        require(lori.transfer(person(to), amount));
        numSucceeded[msg.sig]++;
    }

    function delegate(uint256 from, uint256 to) external counted {
        vm.prank(person(from));
        lori.delegate(person(to));
        voices[from % NUM_PEOPLE] = to % NUM_PEOPLE + 1;
        numSucceeded[msg.sig]++;
    }

    function burn(uint256 from, uint256 amount) external counted {
        amount = bound(amount, 0, lori.balanceOf(person(from)) / 100);
        vm.prank(person(from));
        lori.burn(amount);
        numSucceeded[msg.sig]++;
    }

    function proposeFloor(uint256 by) external counted {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) =
            setting(FLOOR, proposals.length + 1);
        vm.prank(person(by));
        try governor.propose(targets, values, calls, "") returns (uint256 id) {
            proposals.push(Proposal(id, 0, false, false));
            numSucceeded[msg.sig]++;
        } catch {}
    }

    /// @dev Mostly in favour of the newest, or nothing would ever pass.
    function vote(uint256 which, uint256 by, uint8 support) external counted {
        if (proposals.length == 0) return;
        uint256 place = which % 4 == 0 ? which % proposals.length : proposals.length - 1;
        uint8 said = support % 4 < 3 ? FOR : AGAINST;
        vm.prank(person(by));
        try governor.castVote(proposals[place].id, said) returns (uint256 weight) {
            check(!hasVoted[place][by % NUM_PEOPLE], "nobody votes twice");
            hasVoted[place][by % NUM_PEOPLE] = true;
            proposals[place].votes += weight;
            numSucceeded[msg.sig]++;
        } catch {}
    }

    function queue(uint256 which) external counted {
        for (uint256 k = 0; k < proposals.length; k++) {
            uint256 place = (which % proposals.length + k) % proposals.length;
            if (!isState(proposals[place].id, IGovernor.ProposalState.Succeeded)) continue;
            (address[] memory targets, uint256[] memory values, bytes[] memory calls) =
                setting(FLOOR, place + 1);
            governor.queue(targets, values, calls, keccak256(""));
            proposals[place].isQueued = true;
            numSucceeded[msg.sig]++;
            return;
        }
    }

    function execute(uint256 which) external counted {
        for (uint256 k = 0; k < proposals.length; k++) {
            uint256 place = (which % proposals.length + k) % proposals.length;
            (address[] memory targets, uint256[] memory values, bytes[] memory calls) =
                setting(FLOOR, place + 1);
            try governor.execute(targets, values, calls, keccak256("")) {
                check(!proposals[place].isExecuted, "nothing is executed twice");
                proposals[place].isExecuted = true;
                lastFloor = place + 1;
                numExecuted++;
                numSucceeded[msg.sig]++;
                return;
            } catch {}
        }
    }

    function passTime(uint256 duration) external counted {
        vm.warp(block.timestamp + bound(duration, 1, VOTING_PERIOD / 2));
        numSucceeded[msg.sig]++;
    }

    /// @dev The guardian does what it can, and everybody tries to write without a vote.
    function pause(uint64 duration) external counted {
        vm.prank(warden);
        try guardian.pause(uint64(bound(duration, 1, MAX_PAUSE))) {
            numSucceeded[msg.sig]++;
        } catch {}
        Change[] memory changes = new Change[](1);
        changes[0] = Change(SHARE, 10_000);
        vm.prank(person(duration));
        try parameters.set(changes) {
            check(false, "nobody writes without a vote");
        } catch {}
    }

    function person(uint256 number) private pure returns (address) {
        return address(uint160(0x1000 + number % NUM_PEOPLE));
    }
}
