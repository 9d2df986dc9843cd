"""What is trained: stages 1A and 1B, distillation."""
