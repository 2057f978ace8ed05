"""Training batches of every objective (scaling.objective), as pure functions of (seed, batch number)."""
