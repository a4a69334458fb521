-- Builds that are, or were, made anew from the log, and what operators decided about builds.

-- How a build was made: by whom, how fast, how far it was told to have come. `attended`: whoever asked runs it
-- themselves; else the leading follower starts a process for it, again and again until it is done.
create table projection_rebuilds (
    projection        text             not null,
    version           integer          not null,
    build             integer          not null,
    state             text             not null default 'building' check (state in ('building', 'following')),
    attended          boolean          not null,
    rate              integer          check (rate > 0),
    asked_by          text             not null,
    asked_at          timestamptz      not null default clock_timestamp(),
    runner            text             not null default '',
    events_per_second double precision not null default 0,
    error             text,
    differences       bigint,
    compared_position bigint,
    updated_at        timestamptz      not null default clock_timestamp(),
    primary key (projection, version, build),
    foreign key (projection, version, build) references projection_builds on delete cascade
);

-- Decisions that haven't taken effect yet. A row comes with the commit of the decision and goes with its effect, so that
-- whoever was killed in between is completed by the next to look.
create table projection_wishes (
    position   bigint      not null primary key,
    kind       text        not null check (kind in ('rebuild', 'cutover', 'rollback', 'drop')),
    projection text        not null,
    version    integer     not null,
    build      integer,
    rate       integer,
    attended   boolean     not null default false,
    actor      text        not null,
    decided_at timestamptz not null default clock_timestamp()
);
