"""Gives the factory the base's tokenizer and template as this node serves them. Decides nothing."""

from __future__ import annotations

from ..answering.tokenizer import BaseTokenizer
from ..api.answers import ChatMessage
from ..errors import BadRequest


class BaseEncoder:
    """What makes token ids of texts (factory.training.rows.Encoder)."""

    def __init__(self, tokenizer: BaseTokenizer) -> None:
        self._tokenizer = tokenizer
        self.end = tokenizer.end_id

    def text(self, text: str) -> list[int]:
        """Return the ids of a text; what looks like a special token is text."""
        return self._tokenizer.encode_text(text)

    def chat(self, question: str) -> list[int]:
        """Return the ids of a conversation up to where the assistant begins; none without a
        template.
        """
        if not self._tokenizer.template:
            return []
        try:
            return self._tokenizer.encode_prompt((ChatMessage("user", question),))
        except BadRequest:  # a title that the template refuses, or that is too long
            return []
