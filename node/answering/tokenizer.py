"""Turns text into token ids and back, by the base's own files.

A GGUF file's metadata (gguf_vocabulary.py), or a Hugging Face folder's tokenizer.json or else its
SentencePiece model (sentencepiece_model.py), gives the vocabulary, the chat template
(chat_template.py) and the ids that end an answer.

Knows no network, and of the engine only how a base's files are read; the engine sees only ids.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tokenizers
from tokenizers import AddedToken, Tokenizer, processors

from engine.base_files import read_gguf_fields
from engine.errors import ModelError
from engine.messages import MAX_STOP_IDS

from ..api.answers import ChatMessage, Prompt, TokenPrompt, Tool
from ..errors import BadRequest, ConfigError
from .chat_template import ChatTemplate
from .gguf_vocabulary import UnknownVocabularyError, read_gguf_vocabulary
from .sentencepiece_model import BadModelError, build_tokenizer, parse_model
from .tools import Form, as_functions, explained

MODEL_FILE = "tokenizer.model"
"""A SentencePiece model, which counts where there is no tokenizer.json."""
MAX_PROMPT_CHARS = 1_000_000
MAX_SETTINGS_BYTES = 16 << 20
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
INCOMPLETE = "\ufffd"
BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
DEFAULT_TEMPLATE = "default"
TOOL_TEMPLATE = "tool_use"
"""Of several named templates, the one for requests with tools."""
TAG = re.compile("<.*>", re.DOTALL)
SPECIAL_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def byte_letters() -> dict[str, int]:
    """Map each letter of a byte-level vocabulary to its byte (GPT-2's `bytes_to_unicode`).

    Printable Latin-1 characters stand for themselves; the other bytes are the letters from U+0100
    on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTES = byte_letters()


class BaseTokenizer:
    """The vocabulary and template of one base.

    `tokenizer_hash` and `template_hash` are the ones that a manifest names; `specials` is what the
    template finds under the names bos_token and eos_token, `tool_template` takes the template's
    place where there are tools.
    """

    def __init__(
        self,
        vocabulary: Tokenizer,
        template: str,
        tokenizer_hash: bytes,
        specials: Mapping[str, str],
        stop_ids: Sequence[int],
        name: str,
        tool_template: str = "",
    ) -> None:
        self._vocabulary = vocabulary
        self.specials = dict(specials)
        self.template = template
        self.tool_template = tool_template
        self._template = ChatTemplate(template)
        self._tool_template = ChatTemplate(tool_template) if tool_template else self._template
        self.tokenizer_hash = tokenizer_hash
        self.template_hash = hashlib.sha256(template.encode()).digest()
        self.stop_ids = tuple(sorted(set(stop_ids)))
        if len(self.stop_ids) > MAX_STOP_IDS:
            raise ConfigError(
                f"the base {name} ends an answer at {len(self.stop_ids)} tokens (eos_token_id); at"
                f" most {MAX_STOP_IDS} are served"
            )
        self.name = name
        self._plain: Tokenizer | None = None
        # Decoders strip the space that a text begins with; an answer goes on, so it keeps its own.
        self._before = list(vocabulary.encode("a", add_special_tokens=False).ids)
        self._before_chars = len(vocabulary.decode(self._before, skip_special_tokens=False))

    def encode_prompt(
        self,
        prompt: Prompt,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return a prompt's token ids; chat turns go through the base's template. Raises
        BadRequest.
        """
        if isinstance(prompt, TokenPrompt):
            return self._check_ids(prompt.token_ids)
        text = prompt if isinstance(prompt, str) else self.render(prompt, tools, options)
        if not text:
            raise BadRequest("the prompt is empty")
        if len(text) > MAX_PROMPT_CHARS:
            raise BadRequest(
                f"the prompt has {len(text)} characters; the limit is {MAX_PROMPT_CHARS}"
            )
        # A template writes its own first token; plain text gets what the tokenizer puts before
        # every text.
        return list(self._vocabulary.encode(text, add_special_tokens=isinstance(prompt, str)).ids)

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of a text as nothing but text: what is written like a control token is
        spelt, and nothing is put before it.
        """
        if self._plain is None:
            self._plain = Tokenizer.from_str(self._vocabulary.to_str())
            self._plain.encode_special_tokens = True
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    @property
    def end_id(self) -> int:
        """Return the id that a text ends with: eos_token's, else the last that ends an answer.

        Raises BadRequest.
        """
        eos = self._vocabulary.token_to_id(self.specials.get("eos_token", ""))
        if eos is not None:
            return int(eos)
        if not self.stop_ids:
            raise BadRequest(f"the base {self.name} has no token that ends a text")
        return self.stop_ids[-1]

    @property
    def form(self) -> Form:
        """Return how this base's model writes calls of tools."""
        return self._tool_template.form

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Return the texts that this vocabulary reads as control tokens, wherever they stand."""
        added = self._vocabulary.get_added_tokens_decoder().values()
        return tuple(sorted({token.content for token in added if token.special}))

    @property
    def tags(self) -> dict[str, int]:
        """Return the tokens that an answer may have and a grammar takes by their ids alone: marks
        of calls, and added ones that are written like tags.
        """
        added = self._vocabulary.get_added_tokens_decoder().items()
        tags = {token.content: at for at, token in added if TAG.fullmatch(token.content)}
        tags |= self._marks
        hidden = {token.content for _, token in added if token.special} - self._marks.keys()
        return {text: at for text, at in tags.items() if text not in hidden}

    @property
    def _marks(self) -> dict[str, int]:
        """Return the marks of calls that are control tokens, or written like tags."""
        added = self._vocabulary.get_added_tokens_decoder().items()
        return {
            token.content: at
            for at, token in added
            if token.content in self.form.markers
            and (token.special or TAG.fullmatch(token.content))
        }

    def lay_out_tools(
        self, messages: tuple[ChatMessage, ...], tools: Sequence[Tool]
    ) -> tuple[tuple[ChatMessage, ...], list[dict[str, Any]] | None]:
        """Return turns and tools as `encode_prompt` takes them; where the template knows no tools,
        turns that explain them, and none.
        """
        template = self._tool_template if tools else self._template
        if template.knows_tools:
            return messages, as_functions(tools)
        return explained(messages, tools), None

    def _check_ids(self, ids: Sequence[int]) -> list[int]:
        size = self._vocabulary.get_vocab_size()
        if not ids:
            raise BadRequest("the prompt is empty")
        if wrong := next((one for one in ids if not 0 <= one < size), None):
            raise BadRequest(
                f"the prompt has the token id {wrong}; this base's ids are 0 to {size - 1}"
            )
        return list(ids)

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Lay out chat turns as the base was trained to read them, ending where the assistant
        speaks; `tools` are what it may call, as JSON schemas, `options` what else its template may
        look at.

        Raises BadRequest.
        """
        template = self._template if tools is None else self._tool_template
        return template.render(messages, self.specials, tools, options)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids that go on after others, without control tokens."""
        return self._decode(token_ids, skip_special_tokens=True)

    def spell(self, token_id: int) -> bytes:
        """Return the bytes that one id stands for, not necessarily whole characters.

        A control token is spelled by its name.
        """
        text = self._decode([token_id], skip_special_tokens=False)
        letters = self._vocabulary.id_to_token(token_id) or ""
        byte = BYTE_TOKEN.fullmatch(letters)
        if byte is not None and text != letters:
            return bytes([int(byte[1], 16)])
        if INCOMPLETE not in text:
            return text.encode()
        return (
            bytes(_BYTES[letter] for letter in letters)
            if all(letter in _BYTES for letter in letters)
            else letters.encode()
        )

    def _decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        text = self._vocabulary.decode(
            [*self._before, *token_ids], skip_special_tokens=skip_special_tokens
        )
        return text[self._before_chars :]

    def save(self, path: Path) -> None:
        """Write the vocabulary as a tokenizer.json, whatever format the base's own files have."""
        whole = path.with_suffix(".partial")
        whole.write_text(self._vocabulary.to_str())
        whole.replace(path)

    def detokenizer(self, *, with_marks: bool = False) -> Detokenizer:
        """Return a new stream decoder for one answer; `with_marks` it writes the marks of calls,
        which are no text otherwise where they are control tokens.
        """
        marks = self._marks.items() if with_marks else ()
        return Detokenizer(self, {at: text for text, at in marks})


class Detokenizer:
    """Turns arriving ids into text that never has to be taken back: an incomplete character waits
    for its last byte.
    """

    def __init__(self, tokenizer: BaseTokenizer, marks: Mapping[int, str]) -> None:
        self._tokenizer = tokenizer
        self._marks = marks
        self._ids: list[int] = []
        self._start = 0  # ids before this are forgotten context
        self._shown = 0  # characters of decode(ids[start:]) already given out

    def feed(self, token_ids: Sequence[int]) -> str:
        """Add ids and return the new text, possibly empty."""
        text = ""
        begin = 0
        for at, token in enumerate(token_ids):
            if mark := self._marks.get(token):
                text += self._decode(token_ids[begin:at]) + self.flush() + mark
                self._ids = []
                self._start = self._shown = 0
                begin = at + 1
        return text + self._decode(token_ids[begin:])

    def _decode(self, token_ids: Sequence[int]) -> str:
        self._ids.extend(token_ids)
        text = self._tokenizer.decode(self._ids[self._start :])
        if text.endswith(INCOMPLETE):
            return ""
        fresh = text[self._shown :]
        self._shown = len(text)
        self._forget(text)
        return fresh

    def flush(self) -> str:
        """Return whatever is left at the end, complete or not."""
        return self._tokenizer.decode(self._ids[self._start :])[self._shown :]

    def _forget(self, text: str) -> None:
        """Keep only a short window of ids, so that a long answer costs linear time.

        It begins at a character, whose bytes may be several ids.
        """
        if len(self._ids) - self._start <= 32:
            return
        last = len(self._ids) - 8
        for start in range(last, last - 4, -1):
            window = self._tokenizer.decode(self._ids[start:])
            if text.endswith(window):
                self._start = start
                self._shown = len(window)
                return


@dataclass
class StopFinder:
    """Cuts a text stream at the first stop string, which is `found`; holds back what may be the
    beginning of one.
    """

    stops: tuple[str, ...]
    held: str = ""
    found: str = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that is safe to show, and whether a stop string was found."""
        self.held += text
        hits = [(at, stop) for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if hits:
            at, self.found = min(hits, key=lambda hit: hit[0])
            return self.held[:at], True
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


def read_vocabulary(raw: bytes, path: Path) -> Tokenizer:
    """Read a tokenizer.json, which may be a stranger's. Raises ConfigError that names its path."""
    try:
        vocabulary = tokenizers.Tokenizer.from_str(raw.decode())
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"{path} is no tokenizer: {error}") from error
    # The file may say how training cut and filled its examples; a prompt is taken whole.
    vocabulary.no_truncation()
    vocabulary.no_padding()
    return vocabulary


# --- a Hugging Face folder ---


def _from_folder(path: Path) -> BaseTokenizer:
    config = _settings(path / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # as older versions of transformers wrote it
        config = {**config, **_settings(path / "special_tokens_map.json")}
    if (path / "tokenizer.json").is_file() or not (path / MODEL_FILE).is_file():
        raw = _read(path / "tokenizer.json")
        vocabulary = read_vocabulary(raw, path / "tokenizer.json")
        specials = _special_texts(config)
        _add_missing(vocabulary, config, specials)
    else:
        raw = _read(path / MODEL_FILE)
        vocabulary, specials = _from_model(raw, path, config)
    templates = _templates(path, config)
    template = templates.get(DEFAULT_TEMPLATE, "")
    ends = [*_known_ids(vocabulary, (specials.get("eos_token", ""), *STOP_TOKENS))]
    ends += _ending_ids(path, vocabulary.get_vocab_size())
    return BaseTokenizer(
        vocabulary,
        template,
        hashlib.sha256(raw).digest(),
        specials,
        stop_ids=ends,
        name=path.name,
        tool_template=templates.get(TOOL_TEMPLATE, ""),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path.parent} has no readable {path.name}: {error}") from error


def _from_model(
    raw: bytes, path: Path, config: Mapping[str, Any]
) -> tuple[Tokenizer, dict[str, str]]:
    """Build a folder's vocabulary of its SentencePiece model alone, as transformers does; return it
    and the texts of its special tokens. Raises ConfigError.
    """
    try:
        model = parse_model(raw)
        vocabulary = build_tokenizer(model, prefix_everywhere=bool(config.get("legacy", False)))
    except BadModelError as error:
        raise ConfigError(f"{path / MODEL_FILE} cannot be read: {error}") from error
    ids = {"bos_token": model.bos, "eos_token": model.eos, "unk_token": model.unk}
    own = {name: model.pieces[at] for name, at in ids.items() if at is not None}
    specials = own | _special_texts(config)
    _add_missing(vocabulary, _with_older_tokens(path, config), specials)
    _check_places(vocabulary, config, path)
    first = specials.get("bos_token", "")
    at = vocabulary.token_to_id(first)
    if config.get("add_bos_token", True) and at is not None:
        vocabulary.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, at)]
        )
    return vocabulary, specials


def _with_older_tokens(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the added tokens that older folders keep in a file of their own."""
    older = _settings(path / "added_tokens.json")
    if config.get("added_tokens_decoder") or not older:
        return dict(config)
    tokens = {str(at): {"content": text, "normalized": False} for text, at in older.items()}
    return {**config, "added_tokens_decoder": tokens}


def _check_places(vocabulary: Tokenizer, config: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError unless added tokens have the ids that the folder gives them."""
    for at, token in (config.get("added_tokens_decoder") or {}).items():
        if vocabulary.token_to_id(token["content"]) != int(at):
            raise ConfigError(
                f"{path / 'tokenizer_config.json'}: added_tokens_decoder gives {token['content']!r}"
                f" the id {at}, which does not follow the vocabulary's"
            )


def _settings(path: Path) -> dict[str, Any]:
    """Read a JSON object of a folder; empty where the file is missing. Raises ConfigError."""
    try:
        if not path.is_file():
            return {}
        if path.stat().st_size > MAX_SETTINGS_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_SETTINGS_BYTES} bytes")
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold one JSON object")
    return raw


def _special_texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what a template finds under the names of special tokens (`bos_token` and the like)."""
    given = {name: value for name, value in config.items() if name.endswith("_token")}
    extra = config.get("extra_special_tokens")
    given |= extra if isinstance(extra, dict) else {}
    texts = {name: _special_text(value) for name, value in given.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _special_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _add_missing(
    vocabulary: Tokenizer, config: Mapping[str, Any], specials: Mapping[str, str]
) -> None:
    """Add the tokens that tokenizer_config.json has and tokenizer.json lacks, as transformers
    does.
    """
    listed = config.get("added_tokens_decoder") or {}
    try:
        decoder = sorted((int(at), entry) for at, entry in listed.items())
        tokens = [AddedToken(**entry) for _, entry in decoder]
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"tokenizer_config.json: added_tokens_decoder cannot be read: {error}"
        ) from error
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    names = [*(f"{name}_token" for name in SPECIAL_NAMES), *specials]
    texts = [specials[name] for name in dict.fromkeys(names) if name in specials]
    if isinstance(extra, list):
        texts += [text for text in map(_special_text, extra) if text is not None]
    known = {token.content for token in vocabulary.get_added_tokens_decoder().values()}
    tokens = [token for token in tokens if token.content not in known]
    known |= {token.content for token in tokens}
    tokens += [AddedToken(text, special=True) for text in dict.fromkeys(texts) if text not in known]
    vocabulary.add_tokens(tokens)


def _templates(path: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return a folder's chat templates by their names; files stand before tokenizer_config.json.

    Raises ConfigError.
    """
    files = {
        file.stem: file for file in sorted((path / "additional_chat_templates").glob("*.jinja"))
    }
    if (path / "chat_template.jinja").is_file():
        files[DEFAULT_TEMPLATE] = path / "chat_template.jinja"
    if files:
        try:
            return {name: file.read_text() for name, file in files.items()}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: a chat template cannot be read: {error}") from error
    given = config.get("chat_template")
    if isinstance(given, list):
        try:
            given = {each["name"]: each["template"] for each in given}
        except (TypeError, KeyError) as error:
            raise ConfigError(
                f"{path / 'tokenizer_config.json'}: chat_template lists what has no name and no"
                " template"
            ) from error
    templates = given if isinstance(given, dict) else {DEFAULT_TEMPLATE: given or ""}
    if not all(isinstance(each, str) for each in templates.values()):
        raise ConfigError(f"{path / 'tokenizer_config.json'}: chat_template is no text")
    return templates


def _ending_ids(path: Path, vocab_size: int) -> Iterable[int]:
    """Yield the ids that end an answer by config.json and generation_config.json."""
    for name in ("generation_config.json", "config.json"):
        given = _settings(path / name).get("eos_token_id")
        for each in given if isinstance(given, list) else [given]:
            if type(each) is int and 0 <= each < vocab_size:
                yield each


def _known_ids(vocabulary: Tokenizer, texts: Sequence[str]) -> list[int]:
    return [
        found for found in (vocabulary.token_to_id(text) for text in texts) if found is not None
    ]


# --- a GGUF file ---


def _from_gguf(metadata: dict[str, Any], path: Path) -> BaseTokenizer:
    try:
        read = read_gguf_vocabulary(metadata)
    except UnknownVocabularyError as error:
        raise ConfigError(f"{path}: {error}") from error
    templates = [metadata.get(f"tokenizer.chat_template{end}", "") for end in ("", ".tool_use")]
    if not all(isinstance(each, str) for each in templates):
        raise ConfigError(f"{path}: tokenizer.chat_template is no text")
    return BaseTokenizer(
        read.tokenizer,
        templates[0],
        hashlib.sha256(msgspec.msgpack.encode(read.identity)).digest(),
        read.specials,
        stop_ids=read.ends,
        name=path.name.split(".")[0],
        tool_template=templates[1],
    )
