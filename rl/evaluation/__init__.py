"""Model evaluation: data sets by name, cached samples, statistics, tables and plots."""
