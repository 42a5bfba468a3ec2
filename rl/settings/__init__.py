"""Checks of a config's sections, shared by the trainer and the application."""
