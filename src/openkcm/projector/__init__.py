"""SQLite: the only room that speaks SQL. Applies rows in one transaction with their cursor; decides nothing."""

from openkcm.projector.database import ProjectorError, Reader, Writer, migrated, open_reader, open_writer

__all__ = ["ProjectorError", "Reader", "Writer", "migrated", "open_reader", "open_writer"]
