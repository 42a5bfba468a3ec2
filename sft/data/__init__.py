"""From data sets to rounds on disk: sources, formats, selection, summaries, tables."""
