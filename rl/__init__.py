"""Stage 2: GRPO over whole episodes, evaluation and export."""
