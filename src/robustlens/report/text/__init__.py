"""Everything of the report that is read rather than looked at."""
