"""How a function becomes a pod: resources, cache, retries, checkpoint stores, Decks, registration."""
