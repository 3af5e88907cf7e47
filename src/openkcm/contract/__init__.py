"""The treaty between the planes: names, events, envelopes, seals. Pure: opens no file, no socket, no clock."""
