"""Models: the base checkpoint and its continual pretraining. May import `assets` only."""
