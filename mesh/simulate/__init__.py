"""`starling simulate`: the real policies before hundreds of nodes and thousands of agents in virtual time."""
