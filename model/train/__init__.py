"""Training recipes: nothing here is needed to answer."""
