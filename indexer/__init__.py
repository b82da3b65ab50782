"""Who turns stored knowledge into something that can be found."""
