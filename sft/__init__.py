"""Stage 1: turns long traces into multi-round data, and trains the model to reason in rounds."""
