"""Export of models: the parts of an exported folder, its check, its card and its upload to the Hub."""
