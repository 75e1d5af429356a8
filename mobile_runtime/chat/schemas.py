"""Schemas that a bundle's answers are held to, compiled when they are first asked for."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from mobile_runtime.bundle import Prompt
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.sampling.structured.constraint import Schema
from mobile_runtime.sampling.structured.grammar import SchemaError
from mobile_runtime.sampling.structured.vocabulary import Vocabulary

_MOST_KEPT = 8  # compiled schemas, with the masks of the states that answers were in


class Schemas:
    """Compiled schemas of one tokenizer; sessions on one model share them."""

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        self._vocabulary: Vocabulary | None = None
        self._kept: OrderedDict[tuple[str, bool], Schema] = OrderedDict()

    def get(self, schema: Any, thinking: bool) -> Schema:
        """The schema for answers with or without thoughts. Raises `SchemaError` for one that
        answers cannot be held to."""
        try:
            key = json.dumps(schema), thinking  # the order of properties counts
        except (TypeError, ValueError, RecursionError) as error:
            raise SchemaError(f"the schema is no JSON ({error}); give a JSON Schema.") from error
        compiled = self._kept.get(key)
        if compiled is None:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._tokenizer.written_texts())
            special = self._prompt.special_tokens
            end = special["think_end"].id if thinking else None
            stops = self._prompt.stop_token_ids
            compiled = Schema.compiled(schema, self._vocabulary, stops, end)
        self._kept[key] = compiled
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return compiled
