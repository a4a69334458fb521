-- Which sets of tables exist, how far each has come, and what it couldn't apply.

-- A build is one set of tables of one version. `feed` says who brings it events ('follower', 'faust', 'rebuild');
-- `layout` says over which partitions its progress is kept (0: one partition of everything).
create table projection_builds (
    projection text        not null,
    version    integer     not null,
    build      integer     not null,
    active     boolean     not null default false,
    feed       text        not null default 'follower',
    layout     integer     not null default 0,
    checksum   text        not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (projection, version, build)
);

create unique index projection_builds_active on projection_builds (projection, version) where active;

-- The row that a feed locks while it writes: the rows of the view and this position are one transaction. `fence` is
-- the fence of the lease under which it was last written; a feed with a lower one is refused.
create table projection_progress (
    projection  text        not null,
    version     integer     not null,
    build       integer     not null,
    layout      integer     not null,
    topic       text        not null,
    partition   integer     not null,
    position    bigint      not null default 0,
    recorded_at timestamptz,
    fence       bigint      not null default 0,
    updated_at  timestamptz not null default clock_timestamp(),
    primary key (projection, version, build, layout, topic, partition),
    foreign key (projection, version, build) references projection_builds on delete cascade
) with (fillfactor = 20);

-- Events that couldn't be applied, and behind each, in order, the later ones of the same stream.
create table projection_parked (
    projection     text        not null,
    version        integer     not null,
    build          integer     not null,
    position       bigint      not null,
    stream         uuid        not null,
    stream_version bigint      not null,
    topic          text        not null,
    error          text,       -- null: nothing is wrong with this one, it waits behind another
    traceback      text,
    attempts       integer     not null default 1,
    parked_at      timestamptz not null default clock_timestamp(),
    primary key (projection, version, build, position),
    foreign key (projection, version, build) references projection_builds on delete cascade
);

create index projection_parked_stream on projection_parked (projection, version, build, stream, position);

-- Who may do what only one may do at a time, by the database's clock. Every new holder gets a higher fence.
create table leases (
    name       text        not null primary key,
    holder     text        not null,
    fence      bigint      not null,
    expires_at timestamptz not null
) with (fillfactor = 20);
