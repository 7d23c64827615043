"""Reads the plug-in's settings from variables of the environment. Each default stands here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:4180"
DEFAULT_CACHE = "~/.cache/lorikeet-vllm"


@dataclass(frozen=True)
class Settings:
    """`base` names the model of vLLM's that the node's adapters are for, empty: as they say."""

    url: str
    cache: Path
    base: str
    max_bytes: int
    timeout_s: float


def read_settings(env: Mapping[str, str]) -> Settings:
    """Read the settings. Raises ValueError that names the variable and what it takes."""
    url = env.get("LORIKEET_URL", DEFAULT_URL).rstrip("/")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"LORIKEET_URL is {url!r}; say where the node answers, as {DEFAULT_URL}")
    return Settings(
        url=url,
        cache=Path(env.get("LORIKEET_VLLM_CACHE", DEFAULT_CACHE)).expanduser(),
        base=env.get("LORIKEET_VLLM_BASE", ""),
        max_bytes=int(_number(env, "LORIKEET_VLLM_MAX_BYTES", 8 << 30)),
        timeout_s=_number(env, "LORIKEET_VLLM_TIMEOUT_S", 300.0),
    )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {text!r}; it takes a number above 0")
    return value
