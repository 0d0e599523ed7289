"""The mesh: nodes behind one gateway, and the commands that run all of it on one machine."""
