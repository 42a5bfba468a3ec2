"""Stage 1: long traces become multi-round data, and the model learns to reason in rounds."""
