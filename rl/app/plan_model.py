"""Computes a model's memory before it exists: parameters from the real model code, activations from a fake pass.

The model is built without memory (`FakeTensorMode`), with 2 and with 4 layers. All allocations of a forward and
backward pass are tracked, and the result is extrapolated to all layers. Attention keeps the tensors that FlashAttention
keeps: queries, keys, values and outputs, but no scores.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.configuration_utils import PretrainedConfig

_ATTENTION = "sawtooth_plan"
_HEAD_TILE = 4096 * 32768 * 4  # bytes of a tile of logits in TRL's fused head


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: Any = None, **_: Any) -> tuple:
    grouped = query.size(1) != key.size(1)
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)


@dataclass(frozen=True)
class ModelSize:
    """Counts of a model. `kv_elements` are the elements of keys and values that one token adds to the cache."""

    parameters: int
    trainable: int
    head: int  # parameters of the output head
    hidden: int
    layers: int
    kv_elements: int


def _build(config: PretrainedConfig, dtype: torch.dtype, lora: dict[str, Any] | None) -> torch.nn.Module:
    config = copy.deepcopy(config)  # the attention is written into it, and an existing model may share it
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=_ATTENTION)
    if not lora:
        return model
    # PEFT moves new adapters to their layers' device, which fake modules can't do; they are already on it.
    with mock.patch.object(torch.nn.Module, "to", lambda module, *_, **__: module):
        return get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", **lora}))


def model_size(config: PretrainedConfig, lora: dict[str, Any] | None = None) -> ModelSize:
    """Returns the sizes of the model that `config` describes, with a LoRA adapter if `lora` has its settings."""
    with FakeTensorMode():
        model = _build(config, torch.bfloat16, lora)
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelSize(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        head=text.vocab_size * text.hidden_size,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        kv_elements=2 * heads * head_dim * text.num_hidden_layers,
    )


def pass_memory(
    config: PretrainedConfig,
    tokens: int,
    *,
    weights: torch.dtype,
    bf16: bool,
    checkpointing: bool,
    lora: dict[str, Any] | None = None,
) -> int:
    """Returns the peak bytes of a forward and backward pass over `tokens` tokens, without weights and gradients.

    Args:
        weights: their dtype on the GPU.
        bf16: mixed precision: the pass itself computes in bfloat16.
    """
    few, more = (
        _traced(_cut(config, layers), tokens, weights, bf16 and weights != torch.bfloat16, checkpointing, lora)
        for layers in (2, 4)
    )
    layers = config.get_text_config().num_hidden_layers
    body = few + (more - few) * (layers - 2) / 2
    size = model_size(config, lora)
    trains_head = lora is None
    head = 4 * tokens * size.hidden + (4 * size.head if trains_head else 0) + _HEAD_TILE  # TRL's fused head, float32
    return int(body + head)


def _cut(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """Returns the same model with fewer layers. Types of layers that occur only later are missed."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = (list(text.layer_types) * layers)[:layers]
    text.vocab_size = 256  # the head is counted separately
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    return config


def _traced(
    config: PretrainedConfig, tokens: int, weights: torch.dtype, autocast: bool, checkpointing: bool, lora: Any
) -> int:
    with FakeTensorMode():
        model = _build(config, weights, lora).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        memory = PeakMemory(model)
        inner = (model.get_base_model() if lora else model).get_decoder()
        ids = torch.zeros(1, tokens, dtype=torch.long)
        cast = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
        with memory:
            with cast:
                states = inner(input_ids=ids, use_cache=False).last_hidden_state
            states.float().sum().backward()
    return memory.peak


class PeakMemory(TorchDispatchMode):
    """Tracks every tensor allocated and freed within it. `peak`: maximum bytes, without `model` and its gradients."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.peak, self._now, self._model = 0, 0, model
        self._known = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._now += size
        weakref.finalize(storage, self._freed, key, size)
        if self._now > self.peak:
            gradients = sum(p.grad.nbytes for p in self._model.parameters() if p.grad is not None)
            self.peak = max(self.peak, self._now - gradients)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
