-- compatible: 0.1.0
-- Aggregates as they were at a version of their stream, so that long streams needn't be folded from the beginning.
-- A cache: any row, and all of them, can be deleted at any time. A row counts only for the very code that folded it, and
-- only while the event at its version stands in the log as it stood then.
create table log_snapshots (
    stream      uuid        not null,
    code        text        not null,
    kind        text        not null,
    version     bigint      not null,
    position    bigint      not null,
    recorded_at timestamptz not null,
    state       bytea       not null,
    digest      bytea       not null,
    -- folded from the first event on, and compared with what stood here before
    proved      boolean     not null,
    made_at     timestamptz not null default clock_timestamp(),
    primary key (stream, code)
);
