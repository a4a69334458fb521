-- Which process runs which configuration, and what it refuses: as it says itself, for as long as it goes on saying so.
-- Derived and short-lived, like leases: a row that is lost is written anew with the process's next beat.
create table configuration_instances (
    -- * for the platform's own processes, which hold all its namespaces; else the namespace that a service watches
    namespace   text        not null,
    id          text        not null,
    part        text        not null,
    host        text        not null,
    pid         integer     not null,
    -- who said so, where that was over HTTP
    actor       text        not null default '',
    -- of the newest configuration event in what it runs with; 0 for a service, which knows no positions
    position    bigint      not null default 0,
    -- the version of each namespace that it runs with: {"api": 7}; 0: none was ever stored
    running     jsonb       not null default '{}',
    -- what it won't run with, and why not: {"api": {"version": 8, "errors": [{"field": ..., "message": ...}]}}
    refused     jsonb       not null default '{}',
    started_at  timestamptz not null default clock_timestamp(),
    -- when running or refused was last another than before
    answered_at timestamptz not null default clock_timestamp(),
    seen_at     timestamptz not null default clock_timestamp(),
    primary key (namespace, id)
) with (fillfactor = 50);
