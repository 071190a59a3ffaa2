"""The proof: needle, loss by domain and position, and the page that compares them. May import `assets` and `training`."""
