"""Keys and passwords, by detect-secrets' patterns for one kind of key each. Asks nobody whether a
key works, and guesses nothing by entropy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from ..findings import find
from ..looked import Looked
from ..types import Finding, Known, Rules

PLUGINS = (
    "artifactory.ArtifactoryDetector",
    "aws.AWSKeyDetector",
    "azure_storage_key.AzureStorageKeyDetector",
    "basic_auth.BasicAuthDetector",
    "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector",
    "gitlab_token.GitLabTokenDetector",
    "jwt.JwtTokenDetector",
    "mailchimp.MailchimpDetector",
    "npm.NpmDetector",
    "openai.OpenAIDetector",
    "private_key.PrivateKeyDetector",
    "pypi_token.PypiTokenDetector",
    "sendgrid.SendGridDetector",
    "slack.SlackDetector",
    "square_oauth.SquareOAuthDetector",
    "stripe.StripeDetector",
    "telegram_token.TelegramBotTokenDetector",
    "twilio.TwilioKeyDetector",
)
MAX_LINE_CHARS = 4096
OVERLAP_CHARS = 512
"""A longer line is looked at in pieces, since some patterns take the square of its length."""


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Find the keys of each document; the key itself is not told."""
    findings = []
    for place, document in enumerate(documents):
        found = sorted({(line, name) for line, name in _find(document.text)})
        if found:
            shown = "; ".join(f"{name} in line {line}" for line, name in found[:5])
            findings.append(find("secret", place, shown))
    return findings


def _find(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        for piece in pieces(line):
            for plugin in _plugins():
                if next(iter(plugin.analyze_string(piece)), None) is not None:
                    yield number, plugin.secret_type


def pieces(line: str) -> Iterator[str]:
    """A long line in pieces that overlap."""
    for start in range(0, max(len(line) - OVERLAP_CHARS, 1), MAX_LINE_CHARS - OVERLAP_CHARS):
        yield line[start : start + MAX_LINE_CHARS]


@cache
def _plugins() -> list[Any]:
    found = []
    for name in PLUGINS:
        module, _, kind = name.partition(".")
        found.append(getattr(import_module(f"detect_secrets.plugins.{module}"), kind)())
    return found
