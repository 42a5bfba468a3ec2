"""What an exported folder is made of, its check, its card and its way to the Hub."""
