"""Everything of the report that is read rather than looked at: sentences, tables, claims, flags, details."""
