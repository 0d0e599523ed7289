"""Several hosts on one machine, joined by links whose delay, jitter, loss and rate can change."""
