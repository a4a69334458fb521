-- How many attempts ended how, by queue and type, and how long they waited and took: summed up from the view of jobs
-- through a position, so that nobody counts a million finished jobs anew. They are derived, and may be made anew:
-- `update job_tallied set position = 0; delete from job_tallies`.
create table job_tallies (
    queue   text             not null,
    type    text             not null,
    -- outcome (label: succeeded, cancelled, snoozed, or the reason of a failure); run, wait (label: at most so many
    -- seconds)
    what    text             not null,
    label   text             not null,
    count   bigint           not null,
    seconds double precision not null,
    primary key (queue, type, what, label)
);

-- Through where they are summed up, and the event there: if the log hasn't that very event, they are of another past.
create table job_tallied (
    position      bigint not null,
    seen_position bigint,
    seen_id       text,
    seen_at       timestamptz
);
insert into job_tallied (position) values (0);
