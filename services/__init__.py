"""The processes of Starling, one folder each; `host` is what they share, `client` is for robots."""
