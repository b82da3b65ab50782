"""How owl-nano is trained: one command per stage, each resumable from its last checkpoint."""
