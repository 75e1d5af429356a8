"""Which devices a model fits, how fast it can be there, and what these figures rest on."""
