"""What should happen, decided from what is seen: no input or output, no clock, no environment."""
