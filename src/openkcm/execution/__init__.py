"""Execution: keys in locked memory and the KMIP that uses them. Hears governance only over the bus."""
