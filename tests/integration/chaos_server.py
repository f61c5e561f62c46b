"""A judge's server that misbehaves on a seeded plan: `python chaos_server.py PORT SEED LOG [calm]`.

Every request draws its fate: 10 % 429 with Retry-After, 10 % 500, 5 % never answered, 5 % a body that is no completion,
2 % a connection that is cut; the rest gets a verdict: 1.0 for answers whose number divides by three. LOG receives a
line for each verdict that was sent, the number of the answer.
"""

import asyncio
import random
import re
import sys

from aiohttp import web

FATES = [(0.10, "429"), (0.20, "500"), (0.25, "hang"), (0.30, "garbage"), (0.32, "cut"), (1.0, "verdict")]


def completion(text):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def make_app(seed, log, calm):
    draws = random.Random(seed)

    async def reply(request):
        prompt = (await request.json())["messages"][-1]["content"]
        found = re.search(r"answer number (\d+)", prompt)
        fate = draws.random()
        name = "verdict" if calm or not found else next(name for below, name in FATES if fate < below)
        await asyncio.sleep(0.02)
        if name == "429":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.05"})
        if name == "500":
            return web.json_response({"error": {"message": "broken"}}, status=500)
        if name == "hang":
            await asyncio.sleep(3600)
        if name == "garbage":
            return web.Response(
                body=draws.choice([b"<html>", b"{}", b'{"choices": []}', b"\xff"]), content_type="application/json"
            )
        if name == "cut":
            request.transport.close()
            return web.Response()
        if found is None:
            return web.json_response(completion("1.0"))
        log.write(f"{found[1]}\n")
        log.flush()
        return web.json_response(completion("1.0" if int(found[1]) % 3 == 0 else "0.0"))

    app = web.Application()
    app.router.add_post("/v1/chat/completions", reply)
    return app


if __name__ == "__main__":
    port, seed, path, *calm = sys.argv[1:]
    with open(path, "a") as lines:  # noqa: PTH123 a script without the package
        web.run_app(make_app(int(seed), lines, bool(calm)), host="127.0.0.1", port=int(port), print=None)
