"""Turns text into token ids and back, by the base's own files.

A GGUF file's metadata, or a Hugging Face folder's tokenizer.json, gives the vocabulary and the chat
template. The template is a stranger's program, so it runs in jinja's sandbox.

Knows no network, and of the engine only how a base's files are read; the engine sees only ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import msgspec
import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from engine.base_files import read_gguf_fields
from engine.errors import ModelError

from ..api import ChatMessage
from ..errors import BadRequest, ConfigError

MAX_PROMPT_CHARS = 1_000_000
CONTROL_TOKEN = 3
USER_TOKEN = 4
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
INCOMPLETE = "\ufffd"


def _byte_letters() -> dict[str, int]:
    """Map each letter of a byte-level vocabulary to its byte (GPT-2's `bytes_to_unicode`).

    Printable Latin-1 characters stand for themselves; the other bytes are the letters from U+0100
    on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTES = _byte_letters()


class BaseTokenizer:
    """The vocabulary and template of one base.

    `tokenizer_hash` and `template_hash` are the ones that a manifest names.
    """

    def __init__(
        self,
        vocabulary: Tokenizer,
        template: str,
        tokenizer_hash: bytes,
        specials: dict[str, str],
        stop_ids: Sequence[int],
        name: str,
    ) -> None:
        self._vocabulary = vocabulary
        self._specials = specials
        self._template = _sandbox().from_string(template) if template else None
        self.tokenizer_hash = tokenizer_hash
        self.template_hash = hashlib.sha256(template.encode()).digest()
        self.stop_ids = tuple(sorted(set(stop_ids)))
        self.name = name

    def encode_prompt(self, prompt: str | tuple[ChatMessage, ...]) -> list[int]:
        """Return a prompt's token ids; chat turns go through the base's template. Raises
        BadRequest.
        """
        text = prompt if isinstance(prompt, str) else self.render(prompt)
        if not text:
            raise BadRequest("the prompt is empty")
        if len(text) > MAX_PROMPT_CHARS:
            raise BadRequest(
                f"the prompt has {len(text)} characters; the limit is {MAX_PROMPT_CHARS}"
            )
        # A template writes its own first token; plain text gets what the tokenizer puts before
        # every text.
        return list(self._vocabulary.encode(text, add_special_tokens=isinstance(prompt, str)).ids)

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """Lay out chat turns as the base was trained to read them, ending where the assistant
        speaks.

        Raises BadRequest.
        """
        if self._template is None:
            raise BadRequest("this base has no chat template: send a plain prompt")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=turns, add_generation_prompt=True, **self._specials
            )
        except jinja2.TemplateError as error:
            raise BadRequest(f"the base's chat template refused these messages: {error}") from error

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, without control tokens."""
        return self._vocabulary.decode(list(token_ids), skip_special_tokens=True)

    def spell(self, token_id: int) -> bytes:
        """Return the bytes that one id stands for, not necessarily whole characters.

        A control token is spelled by its name.
        """
        text = self._vocabulary.decode([token_id], skip_special_tokens=False)
        if INCOMPLETE not in text:
            return text.encode()
        letters = self._vocabulary.id_to_token(token_id) or ""
        return (
            bytes(_BYTES[letter] for letter in letters)
            if all(letter in _BYTES for letter in letters)
            else letters.encode()
        )

    def save(self, path: Path) -> None:
        """Write the vocabulary as a tokenizer.json, whatever format the base's own files have."""
        whole = path.with_suffix(".partial")
        whole.write_text(self._vocabulary.to_str())
        whole.replace(path)

    def detokenizer(self) -> Detokenizer:
        """Return a new stream decoder for one answer."""
        return Detokenizer(self)


class Detokenizer:
    """Turns arriving ids into text that never has to be taken back: an incomplete character waits
    for its last byte.
    """

    def __init__(self, tokenizer: BaseTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # ids before this are forgotten context
        self._shown = 0  # characters of decode(ids[start:]) already given out

    def feed(self, token_ids: Sequence[int]) -> str:
        """Add ids and return the new text, possibly empty."""
        self._ids.extend(token_ids)
        text = self._tokenizer.decode(self._ids[self._start :])
        if text.endswith(INCOMPLETE):
            return ""
        fresh = text[self._shown :]
        self._shown = len(text)
        self._forget()
        return fresh

    def flush(self) -> str:
        """Return whatever is left at the end, complete or not."""
        return self._tokenizer.decode(self._ids[self._start :])[self._shown :]

    def _forget(self) -> None:
        """Keep only a short window of ids, so that a long answer costs linear time."""
        if len(self._ids) - self._start > 32:
            self._start = len(self._ids) - 8
            self._shown = len(self._tokenizer.decode(self._ids[self._start :]))


@dataclass
class StopFinder:
    """Cuts a text stream at the first stop string; holds back what may be the beginning of one."""

    stops: tuple[str, ...]
    held: str = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that is safe to show, and whether a stop string was found."""
        self.held += text
        hits = [at for at in (self.held.find(stop) for stop in self.stops) if at >= 0]
        if hits:
            return self.held[: min(hits)], True
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        shown = self.held[: len(self.held) - keep]
        self.held = self.held[len(self.held) - keep :]
        return shown, False

    def _overlap(self, stop: str) -> int:
        return next(
            (
                size
                for size in range(min(len(stop) - 1, len(self.held)), 0, -1)
                if self.held.endswith(stop[:size])
            ),
            0,
        )


def load_tokenizer(path: Path) -> BaseTokenizer:
    """Read a base's tokenizer from a GGUF file or a Hugging Face folder. Raises ConfigError."""
    if path.is_dir():
        return _from_folder(path)
    try:
        fields = read_gguf_fields(path)
    except ModelError as error:
        raise ConfigError(f"cannot read the base at {path}: {error}; set base_path") from error
    return _from_gguf(fields, path)


# --- a Hugging Face folder ---


def _from_folder(path: Path) -> BaseTokenizer:
    try:
        raw = (path / "tokenizer.json").read_bytes()
        config = (
            json.loads((path / "tokenizer_config.json").read_bytes())
            if (path / "tokenizer_config.json").exists()
            else {}
        )
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} has no readable tokenizer.json: {error}") from error
    vocabulary = tokenizers.Tokenizer.from_str(raw.decode())
    specials = {
        key: _special_text(config[key]) for key in ("bos_token", "eos_token") if config.get(key)
    }
    template_file = path / "chat_template.jinja"
    template = (
        template_file.read_text() if template_file.exists() else config.get("chat_template") or ""
    )
    stop_ids = _known_ids(vocabulary, (specials.get("eos_token", ""), *STOP_TOKENS))
    return BaseTokenizer(
        vocabulary,
        template,
        hashlib.sha256(raw).digest(),
        specials,
        stop_ids=stop_ids,
        name=path.name,
    )


def _known_ids(vocabulary: Tokenizer, texts: Sequence[str]) -> list[int]:
    return [
        found for found in (vocabulary.token_to_id(text) for text in texts) if found is not None
    ]


def _special_text(value: Any) -> str:
    return str(value["content"]) if isinstance(value, dict) else str(value)


# --- a GGUF file ---


def _split_by(pattern: str) -> Callable[[], Any]:
    def build() -> Any:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        return pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )

    return build


_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "llama-bpe": _split_by(_WORDS + r"\p{N}{1,3}" + _REST),
    "qwen2": _split_by(_WORDS + r"\p{N}" + _REST),
    "smollm": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
}


def _from_gguf(metadata: dict[str, Any], path: Path) -> BaseTokenizer:
    tokens = metadata.get("tokenizer.ggml.tokens")
    merges = metadata.get("tokenizer.ggml.merges")
    kind = metadata.get("tokenizer.ggml.model")
    pre = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS or not tokens or merges is None:
        raise ConfigError(
            f"{path}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not known; use a Hugging"
            " Face folder with tokenizer.json"
        )
    if any(
        not isinstance(at, int) or not 0 <= at < len(tokens)
        for name, at in metadata.items()
        if name.endswith("_token_id")
    ):
        raise ConfigError(
            f"{path}: a special token's id lies outside the vocabulary of {len(tokens)}"
        )
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    # Llama 3 takes a word that is a token as it is, whatever the merges would make of it.
    whole_words = pre == "llama-bpe"
    vocabulary = Tokenizer(
        models.BPE(
            vocab={token: at for at, token in enumerate(tokens)},
            merges=pairs,
            ignore_merges=whole_words,
        )
    )
    vocabulary.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    if pre == "qwen2":
        vocabulary.normalizer = normalizers.NFC()
    vocabulary.decoder = decoders.ByteLevel()
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    for token, token_kind in zip(tokens, kinds, strict=False):
        if token_kind in (CONTROL_TOKEN, USER_TOKEN):
            vocabulary.add_special_tokens(
                [AddedToken(token, special=token_kind == CONTROL_TOKEN, normalized=False)]
            )
    first = metadata.get("tokenizer.ggml.bos_token_id")
    if metadata.get("tokenizer.ggml.add_bos_token") and first is not None:
        vocabulary.post_processor = processors.TemplateProcessing(
            single=f"{tokens[first]} $A", special_tokens=[(tokens[first], first)]
        )
    identity = hashlib.sha256(
        msgspec.msgpack.encode([kind, pre, tokens, merges, list(kinds)])
    ).digest()
    specials = {
        f"{name}_token": tokens[metadata[key]]
        for name in ("bos", "eos")
        if (key := f"tokenizer.ggml.{name}_token_id") in metadata
    }
    stop_ids = [
        metadata[key]
        for name in ("eos", "eot")
        if (key := f"tokenizer.ggml.{name}_token_id") in metadata
    ]
    stop_ids += _known_ids(vocabulary, STOP_TOKENS)
    return BaseTokenizer(
        vocabulary,
        metadata.get("tokenizer.chat_template", ""),
        identity,
        specials,
        stop_ids=stop_ids,
        name=path.name.split(".")[0],
    )


def _sandbox() -> jinja2.Environment:
    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment
