"""The model half: the base checkpoint and its continual pretraining. May import `assets` alone."""
