-- no-transaction
-- compatible: 0.1.0
-- What belongs to one correlation is found by it. The expression is that of infra/wanted.py; it can't fail, whatever a
-- metadata says, since every commit computes it.
set statement_timeout = '4h';
drop index concurrently if exists stored_events_correlation;
create index concurrently stored_events_correlation
    on stored_events (left(split_part(split_part(encode(metadata, 'escape'), '"correlation_id":"', 2), '"', 1), 255));
