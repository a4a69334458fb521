-- What the keys of the shared cache contain, so that one step makes every older entry unreachable. `epoch` is a time in
-- milliseconds, never the same twice, so that not even a restored database meets keys it wrote before; it moves when
-- the cache can't be trusted. `graph` is the position of the newest change to a role. `server` is the run of the Valkey
-- server for which the epoch holds.
create table cache_versions (
    only_row boolean     primary key default true check (only_row),
    epoch    bigint      not null,
    graph    bigint      not null default 0,
    server   text        not null default '',
    moved_at timestamptz not null default clock_timestamp(),
    reason   text        not null
)
with (fillfactor = 20);

insert into cache_versions (epoch, reason)
values ((extract(epoch from clock_timestamp()) * 1000)::bigint, 'the first');
