-- How far each reaction has come, and what it couldn't do.

-- One row per part of the log that is driven by itself: the whole of it (layout 0), or one partition of one topic. It
-- moves in the very commit of the commands that the reaction issues, so none of them is issued twice.
create table reaction_progress (
    reaction   text        not null,
    layout     integer     not null,
    topic      text        not null,
    partition  integer     not null,
    position   bigint      not null,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (reaction, layout, topic, partition)
) with (fillfactor = 20);

-- Events that a reaction couldn't react to, and behind each, in order, the later ones of the same stream.
create table reaction_parked (
    reaction       text        not null,
    position       bigint      not null,
    stream         uuid        not null,
    stream_version bigint      not null,
    topic          text        not null,
    error          text,       -- null: nothing is wrong with this one, it waits behind another
    traceback      text,
    attempts       integer     not null default 1,
    parked_at      timestamptz not null default clock_timestamp(),
    primary key (reaction, position)
);

create index reaction_parked_stream on reaction_parked (reaction, stream, position);

-- Compare and set. It fails, and with it the commit it belongs to, where somebody else was faster.
create function muniment_move_reaction(
    in_reaction text, in_layout integer, in_topic text, in_partition integer, from_position bigint, to_position bigint
) returns boolean language plpgsql as $$
begin
    update reaction_progress set position = to_position, updated_at = clock_timestamp()
     where reaction = in_reaction and layout = in_layout and topic = in_topic and partition = in_partition
       and position = from_position;
    if not found then
        raise exception 'reaction % no longer stands at %', in_reaction, from_position
            using errcode = 'check_violation', constraint = 'reaction_overtaken', table = 'reaction_progress';
    end if;
    return true;
end
$$;

-- The same for an event that was parked: whoever takes it out may react to it, and nobody else.
create function muniment_unpark_reaction(in_reaction text, in_position bigint)
returns boolean language plpgsql as $$
begin
    delete from reaction_parked where reaction = in_reaction and position = in_position;
    if not found then
        raise exception 'reaction % has parked nothing at %', in_reaction, in_position
            using errcode = 'check_violation', constraint = 'reaction_overtaken', table = 'reaction_parked';
    end if;
    return true;
end
$$;
