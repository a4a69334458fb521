-- What is known about whether the rows of the views are what the log says, and how fast the views are fed.

-- Where the decisions stand that take an event out of a view, for good: written with the decision's own commit, so that
-- whoever builds the view anew knows of it before they meet the event. A reaction's are named 'reaction:...'.
create table projection_skips (
    projection text   not null,
    decision   bigint not null,
    primary key (projection, decision)
);

insert into projection_skips (projection, decision)
select convert_from(state, 'utf8')::jsonb ->> 'projection', notification_id
  from stored_events where topic = 'projections.EventSkipped';

-- The newest look at each build, and where the standing one goes on. Like a lease this is exempt from the law that the
-- log is the only source of truth: it is an observation that proves nothing, and the next look makes it anew.
create table projection_verifications (
    projection        text        not null,
    version           integer     not null,
    build             integer     not null,
    verified_at       timestamptz not null default clock_timestamp(),
    sample            text        not null,
    position          bigint      not null,
    streams           bigint      not null,
    differing         bigint      not null,
    parked            bigint      not null,
    streams_total     bigint      not null default 0,
    differences_total bigint      not null default 0,
    cursors           jsonb       not null default '{}',
    rounds_total      bigint      not null default 0,
    primary key (projection, version, build),
    foreign key (projection, version, build) references projection_builds on delete cascade
);

-- Streams whose rows weren't what the log says when they were last looked at. Observations, too: finding one for the
-- first time is an event, and that is what lasts.
create table projection_differences (
    projection text        not null,
    version    integer     not null,
    build      integer     not null,
    stream     uuid        not null,
    position   bigint      not null,
    rows       bigint      not null,
    found_at   timestamptz not null default clock_timestamp(),
    primary key (projection, version, build, stream),
    foreign key (projection, version, build) references projection_builds on delete cascade
);

-- Positions per second, as an average that forgets: what was passed t seconds ago counts exp(-t / 30).
alter table projection_progress add column rate double precision not null default 0;
