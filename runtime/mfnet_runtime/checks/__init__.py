"""Rules for what looks wrong with a scene's data; a run and `--check` share them."""
