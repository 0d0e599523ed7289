"""The control plane: which nodes there are, how soon each answers, and what every gateway does about it."""
