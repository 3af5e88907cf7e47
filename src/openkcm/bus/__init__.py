"""Orbital: the only room that speaks NATS. Moves sealed bytes; decides nothing."""
