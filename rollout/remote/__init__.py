"""Rollouts on vLLM servers: client, pool of servers, engine, and their start."""
