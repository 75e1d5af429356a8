"""Questions about generated pictures whose answers are known exactly, by task and seed."""
