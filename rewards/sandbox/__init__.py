"""Runs programs written by a model under kernel-enforced limits."""
