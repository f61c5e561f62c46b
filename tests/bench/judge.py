"""How fast the judge is, against a server on loopback that takes 200 ms for every reply, in a process of its own.

    $ python tests/bench/judge.py

Prints JSON:
- `calls`: at each concurrency, calls a second as a share of the ideal rate, concurrency / latency (target: 0.95);
- `hits`: replies read back from the cache, a second (target: 20,000);
- `memory`: the growth of the peak memory between 20,000 and 100,000 streamed triples, in MiB (target: none);
- `peers`: seconds of the judge path of other harnesses over ours, same server, answers and concurrency, alternating
  (target: at least 1). Only with --peers DIR, an environment that holds inspect_ai and lighteval.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from closedbook.harness.judge import JudgeSettings, LLMJudge, Triple
from closedbook.harness.judge.reply_cache import Call, reply_key
from closedbook.harness.judge.rubrics import build_messages

LATENCY = 0.2
BODY = json.dumps({
    "id": "bench", "object": "chat.completion", "created": 0, "model": "bench",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "0.0"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 300, "completion_tokens": 3, "total_tokens": 303},
}).encode()  # fmt: skip
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


class _Instant(asyncio.Protocol):
    """HTTP as small as it can be, so that the server costs next to nothing: any POST gets BODY after LATENCY."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self.received) < end + 4 + length:
                return
            self.received = self.received[end + 4 + length :]
            asyncio.get_running_loop().call_later(LATENCY, self.reply)

    def reply(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(HEAD + BODY)


def _serve(ready: multiprocessing.Queue[int]) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Instant, "127.0.0.1", 0, backlog=1024)
        ready.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def server() -> Iterator[str]:
    """A server with a fixed latency; yields its address."""
    ready: multiprocessing.Queue[int] = multiprocessing.Queue()
    process = multiprocessing.Process(target=_serve, args=(ready,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ready.get(timeout=30)}/v1"
    finally:
        process.terminate()


def triples(count: int, name: str = "answer") -> Iterator[Triple]:
    """Triples that differ and that no rule decides."""
    return (Triple("who wrote the long book about the sea", ("Some Body Else",), f"{name} {n}") for n in range(count))


def judge(url: str, **settings: object) -> LLMJudge:
    """A judge at that server."""
    stated = {"kind": "openai", "model": "bench", "base_url": url, "cache": "off"} | settings
    return LLMJudge(JudgeSettings.model_validate(stated))


def rate_of_calls(url: str, concurrency: int, seconds: float = 8.0) -> dict[str, float]:
    """Calls a second and their share of the ideal rate."""
    ideal = concurrency / LATENCY
    count = int(ideal * seconds)
    with tempfile.TemporaryDirectory() as folder:
        grader = judge(url, concurrency=concurrency, cache=f"{folder}/replies.sqlite")
        grader.preflight()  # as every command does: imports and the first connection are behind it
        start = time.perf_counter()
        assert all(grade == "incorrect" for grade in grader.grade(triples(count)))
        took = time.perf_counter() - start
    return {"calls": count, "per_second": round(count / took, 1), "of_ideal": round(count / took / ideal, 3)}


def rate_of_hits(url: str, count: int = 50_000) -> float:
    """Replies read back from a cache file, a second."""
    with tempfile.TemporaryDirectory() as folder:
        grader = judge(url, concurrency=256, cache=f"{folder}/replies.sqlite")
        fill_cache(grader, count)
        start = time.perf_counter()
        assert sum(grade == "incorrect" for grade in grader.stream(triples(count))) == count
        return round(count / (time.perf_counter() - start))


def fill_cache(grader: LLMJudge, count: int) -> None:
    """Put replies where the judge finds them."""
    for triple in triples(count):
        grader.asker.cache.add(
            Call("bench", "", 1, 1, 0.0), reply_key(grader.identity, build_messages(triple, grader.rubric)), "0.0"
        )


def memory(url: str) -> dict[str, float]:
    """Peak memory after 20,000 and after 100,000 triples that stream through the judge, in MiB."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        grader = judge(url, cache=f"{folder}/replies.sqlite")
        fill_cache(grader, 100_000)
        for count in (20_000, 100_000):
            for _ in grader.stream(triples(count)):
                pass
            peaks[f"{count}"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return peaks | {"growth": round(peaks["100000"] - peaks["20000"], 1)}


def peers(url: str, python: Path, count: int = 600, concurrency: int = 64, rounds: int = 3) -> dict[str, object]:
    """Seconds of each path, alternating, and the ratio of the medians over ours."""
    script = Path(__file__).with_name("judge_peers.py")
    times: dict[str, list[float]] = {"closedbook": [], "inspect_ai": [], "lighteval": []}
    for _ in range(rounds):
        start = time.perf_counter()
        judge(url, concurrency=concurrency).grade(triples(count))
        times["closedbook"].append(round(time.perf_counter() - start, 2))
        for peer in ("inspect_ai", "lighteval"):
            command = [python, script, peer, url, str(count), str(concurrency)]
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
            if done.returncode:
                print(done.stderr[-2000:], file=sys.stderr)
                return {"error": f"{peer} ended with {done.returncode}"}
            times[peer].append(round(float(done.stdout.strip().splitlines()[-1]), 2))
    middle = {name: sorted(seconds)[len(seconds) // 2] for name, seconds in times.items()}
    ratios = {name: round(value / middle["closedbook"], 2) for name, value in middle.items()}
    return {"calls": count, "concurrency": concurrency, "seconds": times, "over_ours": ratios}


def main() -> None:
    """Run all and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="environment with inspect_ai and lighteval")
    options = parser.parse_args()
    with server() as url:
        figures: dict[str, object] = {
            "memory": memory(url),  # first: a peak never goes down again
            "calls": {str(concurrency): rate_of_calls(url, concurrency) for concurrency in (64, 256)},
            "hits": rate_of_hits(url),
        }
        if options.peers:
            figures["peers"] = peers(url, options.peers / "bin" / "python")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
