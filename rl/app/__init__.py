"""The application around the method: commands, one YAML a run, its checks and stages."""
