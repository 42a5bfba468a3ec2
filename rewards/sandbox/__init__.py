"""Programs that a model wrote, run under the kernel's limits."""
