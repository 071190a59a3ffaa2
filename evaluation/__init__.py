"""The proof half: what the models can do. May import `core`, `assets` and `training`."""
