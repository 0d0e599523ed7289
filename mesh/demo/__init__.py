"""The demo: a fleet of cameras over a real video, answered by a mesh on this machine."""
