"""Stand-ins, shipped because whoever builds on these tasks needs them too: for a model, and for a judge's server.

They sit at the outermost seam. `ScriptedModel` is an lm-eval model that answers as a function tells it; `JudgeServer`
is a real HTTP server on loopback that speaks OpenAI's chat protocol, so client, timeouts and errors are the real ones;
`write_tiny_model` writes a real model, small enough to be trained within seconds.

    >>> with JudgeServer(lambda prompt: "1.0") as server:
    ...     server.url.startswith("http://127.0.0.1:")
    True
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Reply = str | int | bytes  # the assistant's text, an HTTP status to fail with, or a whole body


class ScriptedModel(LM):
    """An lm-eval model that answers each prompt with what `answer` returns for it; keeps the prompts it was sent."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__()
        self.answer = answer
        self.prompts: list[str] = []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """One answer a request; the stop strings are not applied."""
        prompts = [request.args[0] for request in requests]
        self.prompts += prompts
        return [self.answer(prompt) for prompt in prompts]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not a use of this model."""
        raise NotImplementedError("a scripted model generates only")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Not a use of this model."""
        raise NotImplementedError("a scripted model generates only")


SPECIAL = ("<pad>", "<eos>", "<unk>")
CHAT = "{% for message in messages %}{{ message.content }} {% endfor %}"
Family = Literal["llama", "qwen2", "gemma3_text"]
# What each has of its own: of the shape, and of what models of its family say on generation.
SHAPES: Mapping[Family, Mapping[str, Any]] = {
    "llama": {},
    "qwen2": {"num_key_value_heads": 1},
    "gemma3_text": {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8,
        "tie_word_embeddings": True,
    },
}
GENERATION: Mapping[Family, Mapping[str, Any]] = {
    "llama": {},
    "qwen2": {"do_sample": True, "temperature": 0.7, "top_k": 2, "top_p": 0.8, "repetition_penalty": 1.1},
    "gemma3_text": {"do_sample": True, "top_k": 64, "top_p": 0.95, "cache_implementation": "hybrid"},
}


def write_tiny_model(folder: Path, words: Sequence[str], positions: int, family: Family = "llama") -> Path:
    """Write a model of a few thousand random weights that says `words`, with its tokenizer.

    As in the families themselves, Llama's and Qwen's have a chat template and Gemma's is a base model: its prompts open
    with a token for the beginning, one of its layers sees eight tokens back, and the weights that embed a token choose
    one too. Qwen's knows every byte besides its words. Qwen's and Gemma's bring settings for generation.

    Args:
        folder: Where to.
        words: All that it knows, besides the tokens that pad, end and stand for any other word.
        positions: Longest text, in words.
        family: As transformers calls it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    base = family == "gemma3_text"
    own: dict[str, Any] = {"bos_token": "<bos>"} if base else {"chat_template": CHAT}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_bytes_and(words) if family == "qwen2" else _only(words, opened=base),
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        **own,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.5,  # so that its words differ in probability
        pad_token_id=0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=1,
        **SHAPES[family],
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    model.generation_config.update(**GENERATION[family])
    model.save_pretrained(folder)
    return folder


def _only(words: Sequence[str], opened: bool) -> Tokenizer:
    """A tokenizer that knows these words; `opened` for one that puts a token before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    every = [*SPECIAL, *words, *(["<bos>"] if opened else [])]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(every)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if opened:
        begins = [("<bos>", every.index("<bos>"))]
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=begins)
    return made


def _bytes_and(words: Sequence[str]) -> Tokenizer:
    """A tokenizer that knows these words, and any other text by its bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([f" {word}" for word in words for _ in range(2)], trainer)
    return made


def _prompt(request: dict[str, Any]) -> str:
    """The user's turn of a request."""
    return str(request["messages"][-1]["content"])


class JudgeServer:
    """An OpenAI-compatible chat server on loopback that replies as `reply` says; a context manager.

    Args:
        reply: What to answer a prompt with.
        reply_to_request: What to answer the body of a request with, instead.
        latency: Seconds before an answer.
        trickle: Seconds between the bytes of an answer.
        says: The message of a failure.

    Attributes:
        requests: Bodies of all requests, in order of arrival.
        most_at_once: The largest number of requests that were open at the same time.
    """

    def __init__(
        self,
        reply: Callable[[str], Reply] | None = None,
        latency: float = 0.0,
        trickle: float = 0.0,
        says: str = "scripted",
        reply_to_request: Callable[[dict[str, Any]], Reply] | None = None,
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.trickle, self.says = trickle, says
        self.most_at_once = 0
        self._open = 0
        self._lock = threading.Lock()
        if (reply is None) == (reply_to_request is None):
            raise TypeError("give either reply or reply_to_request")
        self._reply = reply_to_request or (lambda request: reply(_prompt(request)))  # type: ignore[misc]
        self._latency = latency
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> JudgeServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def prompts(self) -> list[str]:
        """The user's turn of every request."""
        return [_prompt(request) for request in self.requests]

    def answer(self, request: dict[str, Any]) -> Reply:
        """The reply to one request."""
        with self._lock:
            self.requests.append(request)
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        try:
            time.sleep(self._latency)
            return self._reply(request)
        finally:
            with self._lock:
                self._open -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = outer.answer(request)
                status = reply if isinstance(reply, int) else 200
                body: dict[str, Any] = {"error": {"message": outer.says}}
                if isinstance(reply, str):
                    message = {"role": "assistant", "content": reply}
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    body = {"id": "scripted", "object": "chat.completion", "created": 0, "model": request["model"]}
                    body |= {
                        "choices": [choice],
                        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                    }
                payload = reply if isinstance(reply, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                parts = [bytes([byte]) for byte in payload] if outer.trickle else [payload]
                with suppress(OSError):  # the client has gone
                    for part in parts:
                        time.sleep(outer.trickle)
                        self.wfile.write(part)

            def log_message(self, *_: object) -> None:
                """Say nothing on standard error."""

        return Handler
