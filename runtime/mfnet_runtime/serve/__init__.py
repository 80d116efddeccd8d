"""`mfnet-serve`: one model behind HTTP (the extra `serve`)."""
