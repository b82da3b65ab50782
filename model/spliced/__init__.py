"""Models whose pictures stand in the language model's own sequence, as embeddings among words."""
