"""Builds the command's tree: which verbs there are, and how their errors end the process.

Does not know what a verb does.
"""

from __future__ import annotations

import os
import sys

import typer
from rich.markup import escape

from ..errors import NodeError
from . import (
    aggregator,
    ask,
    audit,
    auditing,
    backup,
    base,
    bugreport,
    channels,
    daemon,
    datanets,
    doctor,
    gov,
    importing,
    invite,
    look,
    mirror,
    peers,
    publish,
    registry,
    service,
    showing,
    stake,
    testnet,
    tracing,
    train,
    verify_answer,
    watch,
    why,
)
from .client import EXIT_ERROR, EXIT_INTERRUPTED, CliError
from .show import err

HELP = """Serve many LoRA adapters from one base model, peer to peer, with a signed receipt for
every answer.

A first evening:  [cyan]lorikeet testnet up[/cyan]  starts a whole network on this machine
and says what to try.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NODE = "A node"
ASK = "Adapters and answers"
MONEY = "Money"
app.command("init", rich_help_panel=NODE)(daemon.init)
app.command("up", rich_help_panel=NODE)(daemon.up)
app.command("invite", rich_help_panel=NODE)(invite.invite)
app.command("status", rich_help_panel=NODE)(look.status)
app.command("doctor", rich_help_panel=NODE)(doctor.doctor)
app.command("bugreport", rich_help_panel=NODE)(bugreport.bugreport)
app.command("backup", rich_help_panel=NODE)(backup.backup)
app.command("restore", rich_help_panel=NODE)(backup.restore)
app.command("move", rich_help_panel=NODE)(backup.move)
app.command("install-service", rich_help_panel=NODE)(service.install_service)
app.add_typer(peers.app, name="peers", rich_help_panel=NODE)
app.add_typer(base.app, name="base", rich_help_panel=NODE)
app.command("ps", rich_help_panel=NODE)(look.ps)
app.add_typer(testnet.app, name="testnet", rich_help_panel=NODE)
app.command("run", rich_help_panel=ASK)(ask.run)
app.command("pull", rich_help_panel=ASK)(ask.pull)
app.command("unpin", rich_help_panel=ASK)(ask.unpin)
app.command("show", rich_help_panel=ASK)(showing.show)
app.command("push", rich_help_panel=ASK)(publish.push)
app.command("import", rich_help_panel=ASK)(importing.import_)
app.command("mirror", rich_help_panel=ASK)(mirror.mirror)
app.command("search", rich_help_panel=ASK)(publish.search)
app.command("versions", rich_help_panel=ASK)(publish.versions)
app.command("rollback", rich_help_panel=ASK)(publish.rollback)
app.command("retract", rich_help_panel=ASK)(publish.retract)
app.command("list", rich_help_panel=ASK)(look.list_adapters)
app.add_typer(datanets.app, name="datanet", rich_help_panel=ASK)
app.add_typer(train.app, name="train", rich_help_panel=ASK)
app.command("receipts", rich_help_panel=MONEY)(look.receipts)
app.command("earnings", rich_help_panel=MONEY)(look.earnings)
app.command("trace", rich_help_panel=ASK)(tracing.trace)
app.command("verify", rich_help_panel=MONEY)(audit.verify)
app.command("why", rich_help_panel=MONEY)(why.why)
app.command("verify-answer", rich_help_panel=MONEY)(verify_answer.verify_answer)
app.command("audit", rich_help_panel=MONEY)(auditing.audit)
app.command("attestations", rich_help_panel=MONEY)(verify_answer.attestations)
app.command("watch", rich_help_panel=MONEY)(watch.watch)
app.command("claim", rich_help_panel=MONEY)(audit.claim)
app.command("channels", rich_help_panel=MONEY)(channels.channels)
app.command("withdraw", rich_help_panel=MONEY)(channels.withdraw)
app.add_typer(aggregator.app, name="aggregator", rich_help_panel=MONEY)
app.add_typer(gov.app, name="gov", rich_help_panel=MONEY)
app.add_typer(stake.app, name="stake", rich_help_panel=MONEY)
app.command("slash", rich_help_panel=MONEY)(stake.slash)
app.add_typer(registry.app, name="registry", rich_help_panel=MONEY)


def main() -> None:
    """Run one command; end the process with its exit code."""
    try:
        app(prog_name="lorikeet")
    except CliError as error:
        fail(str(error), error.exit_code)
    except NodeError as error:
        fail(str(error), EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read us has gone, e.g. `lorikeet list | head -1`; keep the interpreter from
        # complaining again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)


def fail(message: str, exit_code: int) -> None:
    """Print what went wrong and exit."""
    err.print(
        f"[bold red]error:[/bold red] {escape(message)}"
        if err.is_terminal
        else f"error: {message}",
        markup=err.is_terminal,
    )
    sys.exit(exit_code)
