"""Channels and deposits, and the division of fees."""

from __future__ import annotations

from typing import Any

import msgspec
from eth_abi import encode as abi_encode

from proofs.attribution.shares import (
    CONTRIBUTOR,
    POLICY,
    AdapterTerms,
    Share,
    award,
    fee,
    parties_of,
    shares_for,
    split,
)
from proofs.chain.deploy import COLLECTOR
from proofs.chain.structs import config_values
from proofs.chain.token import Transfer, transfer_digest
from proofs.digest import domain_separator, keccak, word
from proofs.voucher import channel_id

from .world import (
    BASE,
    CLIENT,
    CONFIG,
    CREATOR,
    NETWORK,
    OWNER,
    account,
    named,
    network,
    party,
    secret,
)

TOKEN_NAME = "Dev Dollar"
DEPOSIT_TYPES = "((address,address,address,address,address,uint40,bytes32),uint128,address,bytes)"
OTHER = account(7)


# --- channels ---


def channels() -> dict[str, Any]:
    """Channel configurations that a node takes and that it refuses, and a deposit."""
    return {
        "network": network(),
        "node": party("node"),
        "client": party("client"),
        "accept": [_config("the usual one")]
        + [
            _config(why, **changes)
            for why, changes in {
                "no authorizer: the payer signs vouchers itself": {"payer_authorizer": bytes(20)},
                "a cold payer, whose vouchers the client signs": {"payer": OTHER},
                "the shortest delay": {"withdraw_delay": 900},
                "the longest delay": {"withdraw_delay": 2_592_000},
                "a salt of another client's making": {"salt": bytes(32)},
            }.items()
        ],
        "refuse": [
            _config(why, **changes)
            for why, changes in {
                "its client could refund everything at once": {
                    "receiver_authorizer": CLIENT.address
                },
                "pays somebody else than the settlement contract": {"receiver": OTHER},
                "holds another token": {"token": OTHER},
                "is another client's": {"payer": OTHER, "payer_authorizer": OTHER},
                "another key than the client's signs its vouchers": {"payer_authorizer": OTHER},
                "its delay is too short": {"withdraw_delay": 899},
            }.items()
        ],
        "refused_by_the_contract": [
            _config("nobody could claim", receiver_authorizer=bytes(20)),
            _config("its delay is too long", withdraw_delay=2_592_001),
        ],
        "deposit": deposit(),
    }


def _config(why: str, **changes: object) -> dict[str, Any]:
    config = msgspec.structs.replace(CONFIG, **changes)
    return {"why": why, "config": named(config), "channel_id": channel_id(config, NETWORK).hex()}


def deposit() -> dict[str, Any]:
    """A first deposit into the usual channel: what is signed, `data`, and the whole call."""
    amount = 1_000_000
    valid_before = 1_900_000_000
    salt = int.from_bytes(secret("deposit"), "big")
    channel = channel_id(CONFIG, NETWORK)
    nonce = keccak(channel + word(salt))
    domain = domain_separator(TOKEN_NAME, "1", NETWORK.chain_id, NETWORK.token)
    transfer = Transfer(
        payer=CLIENT.address,
        to=COLLECTOR,
        amount=amount,
        valid_after=0,
        valid_before=valid_before,
        nonce=nonce,
    )
    digest = transfer_digest(transfer, domain)
    signature = CLIENT.sign_digest(digest)
    data = abi_encode(
        ("uint256", "uint256", "uint256", "bytes"), (0, valid_before, salt, signature)
    )
    called = abi_encode((DEPOSIT_TYPES,), ((config_values(CONFIG), amount, COLLECTOR, data),))
    selector = keccak(f"deposit{DEPOSIT_TYPES}".encode())[:4]
    return {
        "token": {"name": TOKEN_NAME, "version": "1", "domain_separator": domain.hex()},
        "collector": COLLECTOR.hex(),
        "amount": amount,
        "valid_after": 0,
        "valid_before": valid_before,
        "salt": word(salt).hex(),
        "nonce": nonce.hex(),
        "digest": digest.hex(),
        "signature": signature.hex(),
        "data": data.hex(),
        "call": (selector + called[32:]).hex(),
    }


# --- shares ---


def shares() -> dict[str, Any]:
    """Amounts divided by basis points, and basis points that follow from manifests."""
    seven = dict.fromkeys(range(2, 9), 1)
    return {
        "split": [
            _split(7, 6_000, 2_500, 1_500),  # 4.2, 1.75, 1.05
            _split(1, 2_500, 2_500, 2_500, 2_500),  # all remainders alike
            _split(30, 6_000, 2_500, 1_500),  # two halves
            _split(3, 6_000, 2_500, 1_500),  # the last gets nothing
            _split(5, 1, 9_998, 1),
            _split(10, 3_333, 3_333, 3_334),
            _split(1_290, 10_000),
            _split((1 << 63) - 1, 6_000, 2_500, 1_500),
        ],
        "shares": [
            _shares("the bare base: all is the owner's", None),
            _shares("no contributors: their part is the creator's", []),
            _shares("weights 2 and 1", [(2, 2), (3, 1)]),
            _shares("two units left over: the first of the manifest", list(seven.items())),
            _shares("a part that rounds to 0 basis points is no share", [(2, 10_000), (3, 1)]),
            _shares("one address twice: parts are divided, then added", [(2, 1), (3, 3), (2, 10)]),
            _shares("the creator contributed: two shares of two roles", [(0, 1)]),
            _shares("3/8 by what was drawn on", [(2, 2), (3, 1)], 3, ((1, 10_000),)),
            _shares(
                "all by what was drawn on, of weights 1 and 0", [(2, 1), (3, 0)], 8, ((1, 10_000),)
            ),
            _shares("nothing drawn on: by weights, and as many may share", [(2, 1), (3, 0)], 8),
            _shares(
                "one address twice, drawn on once", [(2, 1), (3, 3), (2, 10)], 4, ((2, 10_000),)
            ),
            _shares(
                "who is paid nothing now costs as much", [(2, 9_999), (3, 1)], 1, ((0, 10_000),)
            ),
        ],
    }


def _split(amount: int, *bps: int) -> dict[str, Any]:
    rows = [Share(account(place), CONTRIBUTOR, part) for place, part in enumerate(bps)]
    parts = split(amount, rows)
    return {"amount": str(amount), "bps": list(bps), "parts": [str(part) for part in parts]}


def _shares(
    why: str,
    weights: list[tuple[int, int]] | None,
    eighths: int = 0,
    drawn: tuple[tuple[int, int], ...] = (),
) -> dict[str, Any]:
    """`weights` are those of the contributors, who are numbered accounts; 0 is the creator."""
    terms = None
    if weights is not None:
        people = tuple(
            (account(who) if who else CREATOR.address, weight) for who, weight in weights
        )
        terms = AdapterTerms.of_one(CREATOR.address, people, BASE, eighths)
    shares = shares_for(POLICY, OWNER, terms, (drawn,) if drawn else ())
    parties = parties_of(POLICY, OWNER, terms)
    return {
        "why": why,
        "owner": OWNER.hex(),
        "creator": CREATOR.address.hex() if terms else None,
        "contributors": [
            {"address": who.hex(), "weight": weight}
            for who, weight in terms.parents[0].contributors
        ]
        if terms
        else None,
        "lambda_eighths": eighths,
        "drawn": [list(one) for one in drawn],
        "shares": [named(share) for share in shares],
        "num_parties": len(parties),
        "fees": [
            _fee(fee(POLICY, price, parties), price, shares) for price in (0, 299, 1_290, 1_000_003)
        ],
    }


def _fee(amount: int, price: int, shares: tuple[Share, ...]) -> dict[str, Any]:
    awards = [{"account": who.hex(), "amount": part} for who, part in award(amount, shares)]
    return {"price": price, "fee": amount, "awards": awards}
