"""Runs inside a rollout server's vLLM: swaps the weights and records which ones it has."""

from __future__ import annotations


class RolloutWorker:
    """vLLM's `worker_extension_cls`: three methods that `/collective_rpc` calls. Mixed into vLLM's own worker."""

    def load_policy(self, path: str) -> str:
        """Replaces the weights with the checkpoint in folder `path`. They have no name until `name_policy`."""
        from rollout.vllm_engine import refresh_tied_head

        self.policy_path = ""
        self.model_runner.reload_weights(weights_path=path)
        refresh_tied_head(self.model_runner.get_model())
        return path

    def name_policy(self, path: str) -> str:
        """Names the weights in use, after the swap is complete and the old cache is dropped."""
        self.policy_path = path
        return path

    def policy(self) -> str:
        """Returns the folder of the weights in use; empty until the first swap is complete, so also after a restart."""
        return getattr(self, "policy_path", "")
