"""The answering models, and what is kept of the pictures they have seen."""
