"""The commands. The only room that may import every other."""
