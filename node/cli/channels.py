"""The commands about payment channels: channels, withdraw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ..api.money import ChannelInfo
from ..api.status import CoinInfo
from .client import EXIT_USAGE, CliError, open_client
from .options import Home, Json
from .show import digits, on_terminal, show_json, show_table, when


def channels(home: Home, as_json: Json = False) -> None:
    """List the payment channels, and what lies in them."""
    with open_client(home) as client:
        listed = client.get("channels", list[ChannelInfo])
        coin = client.coin()
    return show_json(listed) if as_json else show_channels(listed, coin)


def withdraw(
    home: Home,
    channel: Annotated[
        str | None, typer.Argument(help="A channel that this node pays from (its id).")
    ] = None,
    from_all: Annotated[
        bool, typer.Option("--all", help="Every channel that this node pays from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take unspent money back out of channels; it comes once their delay is over."""
    if (channel is None) != from_all:
        raise CliError("say which CHANNEL, or --all (lorikeet channels lists them)", EXIT_USAGE)
    with open_client(home) as client:
        listed = client.post("withdraw", {"channel": channel}, list[ChannelInfo])
        coin = client.coin()
    return show_json(listed) if as_json else show_channels(listed, coin)


def show_channels(listed: Sequence[ChannelInfo], coin: CoinInfo) -> None:
    """One channel a row."""
    rows = [
        (
            on_terminal(one.channel),
            one.state,
            one.role,
            on_terminal(one.counterparty),
            *(digits(each, coin) for each in (one.balance, one.spent, one.claimed, one.free)),
            coin.symbol,
            "-" if one.available_at is None else when(one.available_at),
        )
        for one in listed
    ]
    columns = (
        "Channel",
        "State",
        "As",
        "With",
        "Balance",
        "Spent",
        "Claimed",
        "Free",
        "Token",
        "Comes back",
    )
    show_table(columns, rows, empty="no channels yet")
