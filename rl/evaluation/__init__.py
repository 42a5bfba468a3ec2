"""Evaluation of models: data sets by name, samples kept as they come, statistics, tables and pictures."""
