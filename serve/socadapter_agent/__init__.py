"""The investigation loop: alert in, tool calls, verdict out. One code path for training, evaluation and serving."""
