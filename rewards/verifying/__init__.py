"""Compares two answers: converts both to one notation, then compares by type (a letter, a word, a number, a set, …)."""
