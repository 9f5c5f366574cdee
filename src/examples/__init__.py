"""Programs of the lesson: `python -m src tensors` and `python -m src xor_plateau`; delete what you do not need."""
