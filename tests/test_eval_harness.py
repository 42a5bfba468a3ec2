"""lm-evaluation-harness over engines other than vLLM: what `--model_args` and `--batch_size` give them."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from rl.evaluation.harness import SawtoothLM
from tests.scripted_server import ScriptedServer


def test_servers_are_named_by_text_as_model_args_give_it(tiny_model):
    server = ScriptedServer()
    lm = SawtoothLM(tiny_model, protocol="vanilla", engine="server", urls=server.url)
    try:
        asked = Instance("generate_until", {}, ("a=1 ?", {"until": [], "max_gen_toks": 4}), 0, ("chains", 0, 1))
        lm.generate_until([asked], disable_tqdm=True)
        assert server.served == 1 and lm.statistics["chains"]["failures"] == {}
    finally:
        lm.engine.close()
        server.stop()


def test_the_command_gives_a_batch_size_as_text(tiny_model):
    for given, kept in (("8", 8), (8, 8), ("auto", None)):
        lm = SawtoothLM(tiny_model, protocol="vanilla", engine="transformers", batch_size=given)
        assert lm._engine_settings == {"batch_size": kept}
