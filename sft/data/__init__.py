"""From datasets to rounds on disk: sources, formats, selection, summaries, tables."""
