"""Serving of episodes: an OpenAI endpoint and a chat, both over a vLLM server."""
