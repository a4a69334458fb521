-- The newest event that a view had seen when it was written: by it is recognised whether the log still has that past.
-- Position and event id alone could be the same twice, where a restored log goes on with the same streams; with the
-- time, which only rises, they can't.
alter table projection_progress
    add column seen_position bigint,
    add column seen_id       text,
    add column seen_at       timestamptz;
