"""The nouns of ``fleetctl``, one module each, imported when called."""
