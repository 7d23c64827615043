"""Builds a vocabulary from what a GGUF file says of it: byte-level BPE with the pre-tokenizers that
are named here, and SentencePiece's BPE.

Reads no file. Knows no template and no text of anybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

from .sentencepiece_model import (
    SPACE,
    UNIGRAM,
    BadModelError,
    Model,
    Normalisation,
    build_tokenizer,
    merges_of,
)

UNKNOWN_TOKEN = 2
CONTROL_TOKEN = 3
USER_TOKEN = 4
BYTE_TOKEN = 6
NAMED = ("bos", "eos", "unk", "pad")
ENDS = ("eos", "eot", "eom")
"""Tokens of a GGUF file that end an answer, by their names in its fields."""
END_TEXTS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end|>",
    "<end_of_turn>",
    "<|return|>",
    "<EOT>",
)
"""Tokens that end an answer in any GGUF file, as in llama.cpp."""


class UnknownVocabularyError(ValueError):
    """A vocabulary that is not read; the message says which, or what is wrong with it."""


@dataclass(frozen=True)
class GgufVocabulary:
    """A file's vocabulary.

    specials: the texts of bos_token and the like. ends: ids that end an answer. identity: what
    the vocabulary is made of, for a digest.
    """

    tokenizer: Tokenizer
    specials: dict[str, str]
    ends: tuple[int, ...]
    identity: list[Any]


@dataclass(frozen=True)
class _Cut:
    """How text is cut into words before merges.

    whole_words: a word that is a token is taken as it is, whatever the merges would make of it.
    begins: texts begin with bos_token unless the file says otherwise.
    """

    build: Callable[[], Any]
    whole_words: bool = False
    begins: bool = False
    composed: bool = False


def read_gguf_vocabulary(metadata: Mapping[str, Any]) -> GgufVocabulary:
    """Build the vocabulary that a GGUF file's fields describe. Raises UnknownVocabularyError."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    pre = metadata.get("tokenizer.ggml.pre", "gpt-2")
    merges = metadata.get("tokenizer.ggml.merges")
    if kind == "llama" and tokens:
        tokenizer = _sentencepiece(metadata, tokens)
        begins = True
        identity = [kind, tokens, list(metadata.get("tokenizer.ggml.scores", []))]
    elif kind == "t5" and tokens:
        tokenizer = _unigram(metadata, tokens)
        begins = False
        identity = [kind, tokens, list(metadata.get("tokenizer.ggml.scores", []))]
    elif kind == "gpt2" and pre in CUTS and tokens and merges is not None:
        tokenizer = _byte_level(CUTS[pre], tokens, merges)
        begins = CUTS[pre].begins
        identity = [kind, pre, tokens, merges]
    else:
        raise UnknownVocabularyError(
            f"tokenizer {str(kind)[:40]!r} with pre-tokenizer {str(pre)[:40]!r} is not known; use a"
            " Hugging Face folder with tokenizer.json"
        )
    ids = _special_ids(metadata, len(tokens))
    kinds = list(metadata.get("tokenizer.ggml.token_type", []))
    _add_tokens(tokenizer, tokens, kinds)
    first = ids.get("bos")
    if metadata.get("tokenizer.ggml.add_bos_token", begins) and first is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[first]} $A", special_tokens=[(tokens[first], first)]
        )
    ends = [ids[name] for name in ENDS if name in ids]
    ends += [at for at in map(tokenizer.token_to_id, END_TEXTS) if at is not None]
    specials = {f"{name}_token": tokens[ids[name]] for name in NAMED if name in ids}
    return GgufVocabulary(tokenizer, specials, tuple(ends), [*identity, kinds])


def _special_ids(metadata: Mapping[str, Any], count: int) -> dict[str, int]:
    ids = {}
    for name in (*NAMED, "eot", "eom"):
        field = "unknown" if name == "unk" else "padding" if name == "pad" else name
        at = metadata.get(f"tokenizer.ggml.{field}_token_id")
        if at is None:
            continue
        if type(at) is not int or not 0 <= at < count:
            raise UnknownVocabularyError(
                f"a special token's id ({field}) lies outside the vocabulary of {count}"
            )
        ids[name] = at
    return ids


def _add_tokens(tokenizer: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Have control tokens and the users' own found in texts as they are."""
    added = [
        AddedToken(token, special=kind != USER_TOKEN, normalized=False)
        for token, kind in zip(tokens, kinds, strict=False)
        if kind in (UNKNOWN_TOKEN, CONTROL_TOKEN, USER_TOKEN)
    ]
    tokenizer.add_tokens(added)


# --- byte-level BPE ---


def _byte_level(cut: _Cut, tokens: Sequence[str], merges: Sequence[str]) -> Tokenizer:
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    for first, second in pairs:  # the library panics at one that it does not find
        for part in (first, second, first + second):
            if part not in vocabulary:
                raise UnknownVocabularyError(
                    f"merge {first[:40]!r} {second[:40]!r}: there is no token {part[:80]!r}"
                )
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=pairs,
            ignore_merges=cut.whole_words,
        )
    )
    tokenizer.pre_tokenizer = cut.build()
    if cut.composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _split_by(pattern: str) -> Callable[[], Any]:
    def build() -> Any:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        return pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )

    return build


def _by_digits() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST_WITH_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(ending: str) -> str:
    """Return words that end where small letters are followed by capital ones."""
    lead = r"[^\r\n\p{L}\p{N}]?"
    return f"{lead}{_UPPER}*{_LOWER}+{ending}|{lead}{_UPPER}+{_LOWER}*{ending}|"


_LLAMA_3 = _Cut(_split_by(_WORDS + r"\p{N}{1,3}" + _REST), whole_words=True, begins=True)
_QWEN_2 = _Cut(_split_by(_WORDS + r"\p{N}" + _REST), composed=True)
_DIGITS = _Cut(_by_digits)
_GPT_2 = _Cut(lambda: pre_tokenizers.ByteLevel(add_prefix_space=False))
_TEKKEN = _Cut(_split_by(_cased("") + r"\p{N}" + _REST_WITH_SLASH), whole_words=True, begins=True)
_GPT_4O = _Cut(_split_by(_cased(_ENDINGS + "?") + r"\p{N}{1,3}" + _REST_WITH_SLASH))
CUTS: Mapping[str, _Cut] = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx", "falcon3"), _LLAMA_3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"), _QWEN_2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS),
    **dict.fromkeys(("gpt-2", "phi-2", "jina-v2-code"), _GPT_2),
    "tekken": _TEKKEN,
    "gpt-4o": _GPT_4O,
}


# --- SentencePiece ---


def _scores(metadata: Mapping[str, Any], tokens: Sequence[str]) -> list[float]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise UnknownVocabularyError(
            f"tokenizer {metadata['tokenizer.ggml.model']!r} needs a score for each of its"
            f" {len(tokens)} tokens"
        )
    return scores


def _unigram(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    kinds = tuple(metadata.get("tokenizer.ggml.token_type", []))
    charsmap = metadata.get("tokenizer.ggml.precompiled_charsmap") or []
    model = Model(
        tuple(tokens),
        tuple(_scores(metadata, tokens)),
        kinds if len(kinds) == len(tokens) else (1,) * len(tokens),
        algorithm=UNIGRAM,
        byte_fallback=BYTE_TOKEN in kinds,
        unk=_special_ids(metadata, len(tokens)).get("unk"),
        normalisation=Normalisation(
            bytes(each & 255 for each in charsmap),
            bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
            bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)),
        ),
    )
    try:
        return build_tokenizer(model)
    except BadModelError as error:
        raise UnknownVocabularyError(f"tokenizer 't5': {error}") from error


def _sentencepiece(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    scores = _scores(metadata, tokens)
    begins_with_space = metadata.get("tokenizer.ggml.add_space_prefix", True)
    return sentencepiece_tokenizer(tokens, scores, bool(begins_with_space))


def sentencepiece_tokenizer(
    tokens: Sequence[str], scores: Sequence[float], begins_with_space: bool
) -> Tokenizer:
    """Build SentencePiece's BPE: of two neighbours that make a token, those with the best score are
    merged first; what is no token is spelled in bytes.
    """
    vocabulary = {token: at for at, token in enumerate(tokens)}
    unknown = next((token for token in tokens if token == "<unk>"), None)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges_of(vocabulary, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prepend = [normalizers.Prepend(SPACE)] if begins_with_space else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if begins_with_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer
