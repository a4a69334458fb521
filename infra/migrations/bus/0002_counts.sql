-- What relays and stream workers have counted, added up over all of them and their restarts, for the API's metrics and
-- for `muniment status`. Exempt from the first law: it proves nothing, and what a killed process had not told yet is lost.
create table bus_counts (
    metric     text        not null,
    labels     jsonb       not null default '{}',
    count      bigint      not null,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (metric, labels)
) with (fillfactor = 20);
