"""Models: the base checkpoint and its continual pretraining. May import `core` and `assets`."""
