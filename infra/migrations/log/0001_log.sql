-- Every fact of the platform. The columns' names are those of the eventsourcing library, whose reading methods are used.
-- notification_id is the event's position in the one global order. Rows are never updated and never deleted.
create table stored_events (
    originator_id      uuid        not null,
    originator_version bigint      not null check (originator_version >= 0),
    topic              text        not null,
    state              bytea       not null,
    notification_id    bigint      not null,
    recorded_at        timestamptz not null,
    metadata           bytea       not null,
    primary key (originator_id, originator_version)
)
with (
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);

create unique index stored_events_position on stored_events (notification_id);
-- Positions and times rise together, so a block range index answers "as of this time" in a few pages.
create index stored_events_recorded_at on stored_events using brin (recorded_at) with (pages_per_range = 32, autosummarize = on);

-- The end of the log. Each commit takes this one row first: so positions have no gaps and stand in commit order, and
-- recorded_at never goes back. It is updated all the time and must stay on its page: hence the free space in it.
create table log_head (
    only_row    boolean     primary key default true check (only_row),
    position    bigint      not null,
    recorded_at timestamptz not null
)
with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

insert into log_head (position, recorded_at) values (0, 'epoch');
