"""The application around the method: commands, one YAML config per run, its checks and stages."""
