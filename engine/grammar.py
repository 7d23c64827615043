"""Which tokens may follow so that an answer matches a JSON schema or an expression. llguidance decides; this bounds it and names its errors."""

from __future__ import annotations

from pathlib import Path

import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray

from .errors import BadRequest
from .messages import Grammar, Vocabulary

MAX_GRAMMAR_BYTES = 32 << 10
MAX_TOKENIZER_BYTES = 64 << 20
LIMITS = llguidance.LLParserLimits(
    max_items_in_row=1000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
)
"""A grammar is a stranger's program: about 20 ms to begin with and 8 ms a token, then it is refused as too complex."""


class Matcher:
    """Follows one answer through its grammar. Both methods raise BadRequest when the grammar turns out too complex."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._bits = llguidance.numpy.allocate_token_bitmask(1, vocab_size)

    @property
    def is_over(self) -> bool:
        """Whether nothing more may follow: the grammar is fulfilled, or a token was accepted that it does not allow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.int32]:
        """One bit for each id that may follow, packed, lowest first; valid until the next call."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits)
        if self._matcher.is_error():
            raise BadRequest(f"the grammar cannot be followed further: {_first_line(self._matcher)}; simplify it")
        allowed: NDArray[np.int32] = self._bits[0]
        return allowed

    def accept(self, token: int) -> None:
        """Go on with `token`; one that is not allowed ends the match."""
        self._matcher.consume_token(token)


class Grammars:
    """Compiles grammars for one vocabulary, once the daemon has told where it is described."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._reason = "this engine was not told what its tokens spell; send a Vocabulary first"

    def learn(self, vocabulary: Vocabulary) -> None:
        """Read the tokenizer; where that fails, `compile` says why."""
        try:
            described = _read(Path(vocabulary.tokenizer_path))
            self._tokenizer = llguidance.LLTokenizer(described, n_vocab=self._vocab_size, eos_token=vocabulary.stop_ids)
        except (OSError, ValueError) as error:
            self._reason = f"the base's tokenizer cannot be used for grammars: {error}"

    def compile(self, grammar: Grammar) -> Matcher:
        """A matcher at its start. Raises BadRequest naming what is wrong with the grammar."""
        if self._tokenizer is None:
            raise BadRequest(f"grammar: {self._reason}")
        if len(grammar.text.encode()) > MAX_GRAMMAR_BYTES:
            raise BadRequest(f"grammar has {len(grammar.text.encode())} bytes; the limit is {MAX_GRAMMAR_BYTES}")
        matcher = llguidance.LLMatcher(self._tokenizer, _source(grammar), log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise BadRequest(f"grammar: the {grammar.kind} is refused: {_first_line(matcher)}")
        return Matcher(matcher, self._vocab_size)


def _read(path: Path) -> str:
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ValueError(f"{path} is larger than {MAX_TOKENIZER_BYTES} bytes")
    return path.read_text()


def _source(grammar: Grammar) -> str:
    if grammar.kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(grammar.text)
    if grammar.kind == "json_schema":
        try:
            return llguidance.LLMatcher.grammar_from_json_schema(grammar.text)
        except ValueError as error:
            raise BadRequest(f"grammar: the json_schema is no JSON: {error}") from error
    raise BadRequest(f"grammar has kind {grammar.kind!r}; it must be json_schema or regex")


def _first_line(matcher: llguidance.LLMatcher) -> str:
    return matcher.get_error().strip().partition("\n")[0][:300]
