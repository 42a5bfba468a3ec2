"""Summaries for SFT data from a general model behind any OpenAI-compatible server; one request at a time.

SUMMARIZER_URL=http://127.0.0.1:8000/v1 SUMMARIZER_MODEL=Qwen/Qwen3-4B-Instruct-2507 [SUMMARIZER_KEY=...]
"""

from __future__ import annotations

import json
import os
import urllib.request

PROMPT = """Somebody works on this problem and has to stop for now:

{question}

{before}What they have just written:

{segment}

Write what they need in order to go on without any of this text: what is established, with its values, what was tried
and failed, and what is to be done next. Facts only, in their language, at most 600 words. Do not finish it for them."""


def by_server(question: str, previous_summary: str | None, segment: str) -> str:
    """Summary of `segment`, from what the model itself will see at inference: no earlier segments."""
    before = f"What they knew when they began this part:\n\n{previous_summary}\n\n" if previous_summary else ""
    prompt = PROMPT.format(question=question, before=before, segment=segment)
    body = {
        "model": os.environ["SUMMARIZER_MODEL"], "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.5, "top_p": 0.95, "max_tokens": 1536,
    }  # fmt: skip
    request = urllib.request.Request(
        os.environ["SUMMARIZER_URL"].rstrip("/") + "/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('SUMMARIZER_KEY', 'none')}"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]
