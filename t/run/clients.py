"""The agent's way of talking: the official OpenAI client, or, on a machine
that could not fetch it, plain HTTP. Neither has a credential."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

try:
    import openai
except ImportError:
    openai = None  # type: ignore[assignment]

TIMEOUT = 180


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    text: str = ""
    pieces: int = 0     # of a streamed answer
    usage: dict[str, int] | None = None
    error: dict[str, Any] = field(default_factory=dict)

    def add(self, chunk: dict[str, Any]) -> None:
        """One event of a stream."""
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or ():
            content = (choice.get("delta") or {}).get("content")
            if content:
                self.text, self.pieces = self.text + content, self.pieces + 1

    def whole(self, answer: dict[str, Any]) -> Reply:
        self.usage = answer.get("usage")
        self.text = answer["choices"][0]["message"].get("content") or ""
        return self


class Agent(Protocol):
    def chat(self, body: dict[str, Any]) -> Reply: ...
    def embed(self, body: dict[str, Any]) -> Reply: ...


class Official:
    """The official client: it parses, we look at what it made of it."""

    name = f"the official OpenAI client {getattr(openai, '__version__', '')}"

    def __init__(self, base_url: str) -> None:
        self.client = openai.OpenAI(base_url=base_url, api_key="none",
                                    max_retries=0, timeout=TIMEOUT)

    def chat(self, body: dict[str, Any]) -> Reply:
        create = self.client.chat.completions.with_raw_response.create
        try:
            raw = create(**body)
        except openai.APIStatusError as e:
            return refusal(e.status_code, e.response.headers, e.body)
        reply = Reply(raw.http_response.status_code, raw.headers)
        if not body.get("stream"):
            return reply.whole(raw.parse().model_dump())
        for event in raw.parse():
            reply.add(event.model_dump())
        return reply

    def embed(self, body: dict[str, Any]) -> Reply:
        try:
            raw = self.client.embeddings.with_raw_response.create(**body)
        except openai.APIStatusError as e:
            return refusal(e.status_code, e.response.headers, e.body)
        return Reply(raw.http_response.status_code, raw.headers)


class Plain:
    """The same calls by the standard library."""

    name = "plain HTTP (the official client could not be fetched)"

    def __init__(self, base_url: str) -> None:
        self.url = urlsplit(base_url)

    def post(self, path: str, body: dict[str, Any]
             ) -> tuple[Reply, http.client.HTTPResponse]:
        c = http.client.HTTPConnection(self.url.netloc, timeout=TIMEOUT)
        c.request("POST", self.url.path + path, json.dumps(body), {
            "Content-Type": "application/json"})
        r = c.getresponse()
        headers = {k.lower(): v for k, v in r.getheaders()}
        if r.status != 200:
            whole = json.loads(r.read())
            return refusal(r.status, headers, whole.get("error")), r
        return Reply(r.status, headers), r

    def chat(self, body: dict[str, Any]) -> Reply:
        reply, r = self.post("/chat/completions", body)
        if reply.status != 200:
            return reply
        if not body.get("stream"):
            return reply.whole(json.loads(r.read()))
        for line in r:
            data = line.strip().removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                reply.add(json.loads(data))
        return reply

    def embed(self, body: dict[str, Any]) -> Reply:
        return self.post("/embeddings", body)[0]


def refusal(status: int, headers: Mapping[str, str], error: Any) -> Reply:
    return Reply(status, headers,
                 error=error if isinstance(error, dict) else {})


def agent(base_url: str) -> Agent:
    return Official(base_url) if openai else Plain(base_url)


NAME = Official.name if openai else Plain.name
# What a client may raise for an answer that is not one.
ERRORS: tuple[type[Exception], ...] = (
    OSError, ValueError, KeyError, http.client.HTTPException)
if openai:
    ERRORS += (openai.OpenAIError,)
