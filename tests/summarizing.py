"""Shared by the tests of summaries and of their writers: one call that asks, and texts to ask with."""

from __future__ import annotations

import asyncio

from sft.data.server_writer import ServerWriter
from sft.data.settings import SummarizerSettings
from sft.data.summarize import Request, Summaries

GAMMA = 40
GOOD = "x = 3 is known."
SEGMENT = (
    "Okay, so first of all I want to write the sum as two parts and to look at each of them by itself. The first "
    "part is easy because all of its terms are equal, and the second part needs a little more care than that, since "
    "the terms change sign. Let me try to pair them and see whether anything cancels out in the end.\n\n"
)
CHINESE = (
    "我们首先把这个和写成两个部分,然后分别考虑每一个部分。第一部分很容易,因为所有的项都相等。第二部分需要更加小心。" * 2
)
REQUEST = Request("What is x?", None, SEGMENT, 1)


def count(text):
    return len(text.split())


def trace(key="t", segments=(SEGMENT, SEGMENT), question="What is x?", answer=None):
    return key, question, answer, [(text, count(text)) for text in segments]


def summarize(make_writer, journal, traces, concurrency=8, seed=0, **settings):
    """(the Summaries, what became of each trace): its summaries or the exception."""

    async def run():
        writer = make_writer()
        summaries = Summaries(
            writer, journal, SummarizerSettings(**settings), count, GAMMA, concurrency=concurrency, seed=seed
        )
        try:
            return summaries, await asyncio.gather(*(summaries.of_trace(*t) for t in traces), return_exceptions=True)
        finally:
            await writer.close()

    return asyncio.run(asyncio.wait_for(run(), 60))


def writer_of(server, say=print, **settings):
    return lambda: ServerWriter(SummarizerSettings(url=server.url, model="m", **settings), GAMMA, say)


def ask(make_writer, requests=(REQUEST,)):
    """What a writer makes of requests, all at once: draws and exceptions."""

    async def run():
        writer = make_writer()
        asked = (writer.write(request, f"key-{place}") for place, request in enumerate(requests))
        try:
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await writer.close()

    return asyncio.run(asyncio.wait_for(run(), 60))
