"""The proof half: what the models can do. May import `training` and `assets`."""
