"""Makes the running bus a fixture for every room."""

from orbital_fixture import orbital

__all__ = ["orbital"]
