"""The log for SQL tools: a schema of views, generated from the event types, and who may read it."""
