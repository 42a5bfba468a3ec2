"""Rollouts on vLLM servers: client, server pool, engine, and launcher."""
