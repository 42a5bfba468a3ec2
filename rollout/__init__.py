"""Rounds, episodes and the engines that generate them."""
