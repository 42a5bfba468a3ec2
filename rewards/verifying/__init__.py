"""How two answers are compared: one notation for both, then by what they are (a letter, a word, a number, a set, …)."""
