"""Rewards of an episode: verified answers, length rewards, and their combination."""
