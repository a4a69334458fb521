-- compatible: 0.1.0
-- What was parked and isn't any more. Where the log turns out to have lost what took it out, it is parked again. Beside
-- it stands the newest event that the log had when that happened.
create table reaction_unparked (
    reaction       text        not null,
    position       bigint      not null,
    stream         uuid        not null,
    stream_version bigint      not null,
    topic          text        not null,
    error          text,
    traceback      text,
    attempts       integer     not null,
    parked_at      timestamptz not null,
    unparked_at    timestamptz not null default clock_timestamp(),
    seen_position  bigint      not null,
    seen_id        text        not null,
    seen_at        timestamptz not null,
    primary key (reaction, position)
);

-- Takes a parked event out and keeps it aside; its stream, or null where it isn't parked.
create function muniment_set_aside(in_reaction text, in_position bigint) returns uuid language sql as $$
    with gone as (
        delete from reaction_parked where reaction = in_reaction and position = in_position returning *
    ), kept as (
        insert into reaction_unparked as former
               (reaction, position, stream, stream_version, topic, error, traceback, attempts, parked_at,
                seen_position, seen_id, seen_at)
        select g.reaction, g.position, g.stream, g.stream_version, g.topic, g.error, g.traceback, g.attempts,
               g.parked_at, e.notification_id, e.originator_id || ':' || e.originator_version, e.recorded_at
          from gone g cross join log_head h join stored_events e on e.notification_id = h.position
            on conflict (reaction, position) do update
           set unparked_at = excluded.unparked_at, seen_position = excluded.seen_position,
               seen_id = excluded.seen_id, seen_at = excluded.seen_at
    )
    select stream from gone
$$;

create or replace function muniment_unpark_reaction(in_reaction text, in_position bigint)
returns boolean language plpgsql as $$
begin
    if muniment_set_aside(in_reaction, in_position) is null then
        raise exception 'reaction % has parked nothing at %', in_reaction, in_position
            using errcode = 'check_violation', constraint = 'reaction_overtaken', table = 'reaction_parked';
    end if;
    return true;
end
$$;
