"""Runs a program's tests in a separate process that calls the program's functions over a pipe."""
