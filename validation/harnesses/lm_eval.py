"""A bundle as a model of EleutherAI's lm-evaluation-harness, called `bundle` there.

`python -m validation harness lm-eval` takes the harness's own arguments and knows this model.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from lm_eval import utils
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from mobile_runtime.bundle import bundle_digest
from mobile_runtime.errors import InputError
from mobile_runtime.model.hub import bundle_folder
from mobile_runtime.sampling.sampling import Sampler
from validation.benchmark.facts import bundle_facts
from validation.harnesses.answering import engine_options
from validation.harnesses.scoring import TextScorer

_T = TypeVar("_T")
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "seed"}


@register_model("bundle")
class BundleLM(TemplateLM):  # type: ignore[misc]
    """A bundle, run by any engine. Requests are answered one by one, so that a figure does not
    depend on its neighbours. The harness always names a device; the engine decides instead.

    Tokens are those of the published tokenizer under transformers: texts begin with `<|im_start|>`
    where there is no context, and special tokens are read as such in prompts that the chat template
    made, nowhere else. `think_end_token` cuts thoughts off, as for the harness's own models.
    """

    def __init__(  # noqa: PLR0913  # the harness gives them by name
        self,
        bundle: str,
        engine: str = "auto",
        precision: Literal["fp32", "fp16"] = "fp16",
        threads: int = 0,
        max_gen_toks: int = 256,
        enable_thinking: bool | None = False,
        think_end_token: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1" or unknown:
            raise InputError(
                "a bundle runs one request at a time and takes bundle, engine, precision, threads, "
                "max_gen_toks, enable_thinking and think_end_token; leave out "
                f"{', '.join(unknown) or 'batch_size'}."
            )
        self._options = engine_options(engine, precision, threads)
        self._bundle = bundle_folder(bundle)
        self._scorer = TextScorer(self._bundle, self._options)
        self._thinking, self._think_end = enable_thinking, think_end_token
        self.max_length, self.max_gen_toks = self._scorer.context_length, int(max_gen_toks)
        special = self._scorer.session.manifest.prompt.special_tokens
        self._special = {token.content: token.id for token in special.values()}
        self._start, self._end = special["message_start"], special["message_end"]
        self._templated = False

    def get_model_info(self) -> dict[str, Any]:
        """What results name of the model: the digest of the bundle, its checkpoint and recipe, and
        how it was run."""
        return bundle_facts(self._bundle, self._scorer.session.manifest, self._options)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a message."""
        return int(self._end.id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the tokenizer's beginning of a sequence."""
        return int(self._start.id)

    @property
    def tokenizer_name(self) -> str:
        """Stands for the tokenizer in the harness's caches of requests."""
        return bundle_digest(self._bundle)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text, or of a prompt that `apply_chat_template` made."""
        encode = self._scorer.session.tokenizer.encode_text
        if not (self._templated and string.startswith(self._start.content)):
            return encode(string)
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(map(re.escape, self._special))})", string):
            ids += [self._special[piece]] if piece in self._special else encode(piece)
        return ids

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as the model reads them. Raises `InputError` for a message that spells a
        special token."""
        self._templated = True
        return self._scorer.chat_text(chat_history, add_generation_prompt, self._thinking)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The published template, which results keep."""
        return self._scorer.session.manifest.prompt.chat_template

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        def score(request: tuple[Any, list[int], list[int]]) -> tuple[float, bool]:
            key, context, continuation = request
            result = self._scorer.loglikelihood(context, continuation)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, result)
            return result

        # Neighbours share the beginning of their contexts, which is then read only once.
        return self._in_order(requests, lambda r: r[1] + r[2], score, "likelihoods", disable_tqdm)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts in nats, in windows of the context."""
        found = []
        for (text,) in tqdm([request.args for request in requests], disable=disable_tqdm):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = map(utils.make_disjoint_window, windows)
            found.append(sum(self._scorer.loglikelihood(*pair)[0] for pair in pairs))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue texts, greedily unless a request samples. Raises `InputError` for an option that
        the runtime does not have."""

        def answer(request: Any) -> str:
            context, given = request.args
            options = normalize_gen_kwargs(given, self.max_gen_toks)
            until = [end for end in options["until"] if end]
            # A stop inside of thoughts does not count, as in the harness.
            early = [] if self._think_end else until
            limit = min(options["max_gen_toks"], self.max_length - 1)
            text = self._scorer.generate(self.tok_encode(context), _sampler(options), limit, early)
            answered = str(postprocess_generated_text(text, until, self._think_end))
            self.cache_hook.add_partial("generate_until", request.args, answered)
            return answered

        def beginning(request: Any) -> Any:
            return request.args[0]

        return self._in_order(requests, beginning, answer, "answers", disable_tqdm)

    @staticmethod
    def _in_order(
        requests: Sequence[Any],
        key: Callable[[Any], Any],
        answer: Callable[[Any], _T],
        title: str,
        quiet: bool,
    ) -> list[_T]:
        """Answers to the requests, worked off in the order of `key`."""
        order = sorted(range(len(requests)), key=lambda n: key(requests[n]))
        found = {n: answer(requests[n]) for n in tqdm(order, desc=title, disable=quiet)}
        return [found[n] for n in range(len(requests))]


def _sampler(options: Any) -> Sampler:
    if unknown := sorted(set(options) - _KNOWN):
        raise InputError(
            f"a task asks for {', '.join(unknown)}; a bundle takes {', '.join(sorted(_KNOWN))}."
        )
    samples = options["do_sample"]
    return Sampler(
        temperature=float(options.get("temperature", 1.0)) if samples else 0.0,
        top_k=int(options.get("top_k", 0)),
        top_p=float(options.get("top_p", 1.0)),
        repetition_penalty=1.0,
        seed=options.get("seed", 0),
    )


def main(arguments: Sequence[str]) -> int:
    """Run the harness's command line, which then knows the model `bundle`; return 0."""
    sys.argv = ["lm-eval", *arguments]  # the harness reads no others
    cli_evaluate()
    return 0
