"""The tests of a program in a process of their own: they call the program's functions over a pipe."""
