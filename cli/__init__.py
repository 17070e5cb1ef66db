"""The front door: one click group that loads each command when it is asked for."""
