-- no-transaction
-- compatible: 0.1.0
-- Every stream that is long, once: by its hundredth event.
set statement_timeout = '4h';
drop index concurrently if exists stored_events_long;
create index concurrently stored_events_long on stored_events (originator_id) where originator_version = 100;
