-- The newest event that a reaction had seen, as for views; and where it started, since before that it never reacted.
alter table reaction_progress
    add column seen_position bigint,
    add column seen_id       text,
    add column seen_at       timestamptz,
    add column started       bigint;

update reaction_progress set started = position;

create function muniment_reaction_started() returns trigger language plpgsql as $$
begin
    new.started := coalesce(new.started, new.position);
    return new;
end
$$;

create trigger reaction_started before insert on reaction_progress
    for each row execute function muniment_reaction_started();

create or replace function muniment_move_reaction(
    in_reaction text, in_layout integer, in_topic text, in_partition integer, from_position bigint, to_position bigint
) returns boolean language plpgsql as $$
begin
    update reaction_progress
       set position = to_position, updated_at = clock_timestamp(),
           (seen_position, seen_id, seen_at) = (
               select notification_id, originator_id || ':' || originator_version, recorded_at
                 from stored_events where notification_id = to_position)
     where reaction = in_reaction and layout = in_layout and topic = in_topic and partition = in_partition
       and position = from_position;
    if not found then
        raise exception 'reaction % no longer stands at %', in_reaction, from_position
            using errcode = 'check_violation', constraint = 'reaction_overtaken', table = 'reaction_progress';
    end if;
    return true;
end
$$;
