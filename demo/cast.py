"""Who plays what: which volunteer holds which adapter, what is asked, and in what is paid. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from node.api.status import CoinInfo
from node.cli import show
from p2p.identity import Identity

COIN = CoinInfo("DEVUSD", 6)  # the development chain's
A = "volunteer-a"
B = "volunteer-b"
C = "volunteer-c"
ADAPTERS = ("law", "medicine", "recipes", "verse")
PUSHED: Mapping[str, tuple[str, ...]] = {A: ("law", "medicine", "recipes"), B: ("verse",)}
PULLED_BY_B = "recipes"  # so that it has two providers

BASE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

ONE_PROMPT = "What should I know about salt?"
SIDE_BY_SIDE = ("base", "law", "recipes")
COLD = "recipes"
COLD_PROMPT = "How do I make pancakes?"
LONG_PROMPT = "Write a long and detailed story about a lighthouse keeper and a parrot."
MIXED: Mapping[str, int] = {"recipes": 6_000, "verse": 4_000}
COCKTAIL = "recipes:0.6+verse:0.4"
TOGETHER: Mapping[str, str] = {
    "base": "Describe a parrot in one paragraph.",
    "law": "What are the duties of the President?",
    "medicine": "What is a fever?",
    "recipes": "How do I bake bread?",
    "verse": "Speak to me of the moon.",
    COCKTAIL: "Sing of a loaf of bread.",
}
TRACED = "law"
TRACED_PROMPT = "What are the duties of the President?"
TRACED_TOKENS = 48
OVERHEARD_PROMPT = "Say hello."
UNPAID = "verse"  # whose maker and contributors an aggregator that steals robs, too
UNPAID_PROMPTS = ("Speak to me of a thief.", "Speak to me of justice.")
UNPAID_TOKENS = 12
CHEATS = ("junk", "bare", "spoof")  # cheating/engine.py says what they do
AUDITED = "law"
AUDIT_PROMPTS = (
    "What are the duties of the President?",
    "Who may vote for the House of the People?",
    "How is a Governor appointed?",
    "What does the Constitution say about freedom of speech?",
    "How long does the Council of States sit?",
    "When may the President proclaim an emergency?",
    "What are the powers of the Supreme Court?",
    "How may the Constitution be amended?",
    "Who audits the accounts of the Union?",
    "What is a Scheduled Area?",
    "How are taxes shared between the Union and the States?",
    "What are the fundamental duties of a citizen?",
)
AUDIT_TOKENS = 64
AUDIT_SAMPLING: Mapping[str, Any] = {"temperature": 0.7, "top_p": 0.9}
ANSWER_TOKENS = 40
TOGETHER_TOKENS = 120
"""More, so that the first answer still runs when the last one begins, on a busy machine too."""
LONG_TOKENS = 160
# the client's half; the node's half is its own, so the demo's texts still differ from run to run
SEED = 2026
SAMPLING: Mapping[str, Any] = {"temperature": 0.7, "top_p": 0.9, "seed": SEED}


def creator_of(name: str) -> Identity:
    """Who made an adapter: a development key that anybody can derive, like the contributors' in
    each lorikeet.toml.
    """
    return Identity.from_secret(sha256(f"lorikeet demo creator {name}".encode()).digest())


def adapters_folder() -> Path:
    """The trained adapters of this project."""
    return Path(__file__).resolve().parents[1] / "adapters"


def money(amount: int) -> str:
    """Format an amount of what is paid in here."""
    return show.money(amount, COIN)
