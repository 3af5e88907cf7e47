"""The API's client: typed, thin, one person's token. Knows the treaty's shapes and HTTP; nothing of either plane."""

from openkcm.client.client import Client
from openkcm.client.transport import Answer, Portal, Problem, SyncTimeout

__all__ = ["Answer", "Client", "Portal", "Problem", "SyncTimeout"]
