"""What runs inside a training run: prepare, sft, grpo, evaluate, publish."""
