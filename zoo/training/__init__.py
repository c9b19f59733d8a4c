"""One trainer for every model: steps, evaluation, checkpoints, logs."""
