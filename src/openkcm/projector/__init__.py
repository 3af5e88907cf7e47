"""SQLite: the only room that speaks SQL. Applies rows in one transaction with their cursor; decides nothing."""
