"""What runs the method from one YAML: stages, configs, checks before the start."""
