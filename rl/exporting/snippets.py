"""The code of a model card: one question with transformers, with vLLM, and over HTTP. The tests run it as it stands."""

from __future__ import annotations

import json
from typing import Any

from rollout.protocol import RoundProtocol
from rollout.types import Question

_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

path = {path}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)
{inputs}
output = model.generate(**inputs, tokenizer=tokenizer, custom_generate=path, trust_remote_code=True, do_sample=False)
text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
print(text.rpartition("</think>")[2].removesuffix(tokenizer.eos_token).strip())
"""

_CHAT_INPUTS = """\
messages = {messages}
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)"""

_VLLM = """\
{imports}from vllm import LLM, SamplingParams

llm = LLM({path}{settings})
tokenizer = llm.get_tokenizer()
{prompt}
params = SamplingParams(temperature=0, max_tokens={max_tokens}, skip_special_tokens=False)
{loop}
print(text.rpartition("</think>")[2].strip())
"""

_CHAT_PROMPT = """\
messages = {messages}
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)"""

_LOOPS = {
    "inftythink": """\
question, history = tokenizer.encode(prompt, add_special_tokens=False), []
for _ in range({max_rounds}):
    text = llm.generate({{"prompt_token_ids": question + history}}, params)[0].outputs[0].text
    summary = re.search(r"</think>\\s*<summary>(.*)</summary>\\s*$", text, re.DOTALL)
    if summary is None:
        break
    history = tokenizer.encode(f"<history>\\n{{summary[1].strip()}}\\n</history>", add_special_tokens=False)""",
    "delethink": """\
question, history, first = tokenizer.encode(prompt, add_special_tokens=False), [], []
for _ in range({max_rounds}):
    output = llm.generate({{"prompt_token_ids": question + history}}, params)[0].outputs[0]
    text, chunk = output.text, list(output.token_ids)
    if output.finish_reason != "length":
        break
    history, first = first[:{keep_tokens}] + chunk[-{carry_tokens}:], first or chunk""",
    "vanilla": """\
question = tokenizer.encode(prompt, add_special_tokens=False)
text = llm.generate({{"prompt_token_ids": question}}, params)[0].outputs[0].text""",
}

_SERVER = """\
sawtooth serve {path}  # in another terminal, when it is ready:
curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'
"""


def _messages(question: Question) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}] if isinstance(question, str) else question


def with_transformers(path: str, question: Question, protocol: RoundProtocol) -> str:
    """Greedy rounds by the folder's own `custom_generate`.

    Args:
        path: what is loaded: a folder or a Hub id.
    """
    if protocol.chat or not isinstance(question, str):
        inputs = _CHAT_INPUTS.format(messages=_messages(question))
    else:
        inputs = f'inputs = tokenizer({question!r}, return_tensors="pt")'
    return _TRANSFORMERS.format(path=json.dumps(path), inputs=inputs)


def with_vllm(
    path: str,
    question: Question,
    protocol: RoundProtocol,
    *,
    max_tokens: int | None,
    dtype: str | None = None,
    max_model_len: int | None = None,
    opens_thinking: bool = False,
) -> str:
    """Greedy rounds as a loop around plain generation.

    Args:
        max_tokens: bound of one round.
        dtype: of the weights; float32 is named, as vLLM would compute in 16 bits.
        opens_thinking: the chat template may write `<think>` itself, which a history may not follow.
    """
    settings = ', dtype="float32"' if dtype == "float32" else ""
    settings += f", max_model_len={max_model_len}" if max_model_len else ""
    if protocol.chat or not isinstance(question, str):
        prompt = _CHAT_PROMPT.format(messages=_messages(question))
    else:
        prompt = f"prompt = {question!r}"
    rounds = protocol.name == "inftythink"
    if rounds and opens_thinking:
        prompt += '\nprompt = re.sub(r"<think>\\s*$", "", prompt)  # the model writes its own'
    return _VLLM.format(
        imports="import re\n\n" if rounds else "",
        path=json.dumps(path),
        settings=settings,
        prompt=prompt,
        max_tokens=max_tokens,
        loop=_LOOPS[protocol.name].format(**vars(protocol)),
    )


def with_server(path: str, question: Question) -> str:
    """Shell: our server, and one request."""
    body = json.dumps({"model": path, "messages": _messages(question)}, ensure_ascii=False)
    return _SERVER.format(path=path, body=body.replace("'", "'\\''"))
